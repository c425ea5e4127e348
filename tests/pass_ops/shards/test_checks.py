"""What a part of each kind must be: signals, shaped parts, prompts; and what verify compares with the rollouts."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from verifying import errors_of, make_signal, problems, put, smuggle

from pass_ops.errors import PartError
from pass_ops.shards import (
    PROMPTS,
    ROLLOUTS,
    DatasetSpec,
    Store,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    shaped_schema,
    signal_schema,
    verify,
)
from pass_ops.shards.checks import Problem, check_part, describe
from pass_ops.shards.schemas import signal_kind
from pass_ops.shards.tables import part_bytes
from pass_ops.shards.verify import Finding


def _kind(kind: str, *rows: dict) -> pa.Table:
    """Signal rows for a/0 (three tokens, the middle one masked) and a/1 (two tokens, the last masked)."""
    full = [{"rollout_id": f"a/{index}", "status": "ok", "detail": None, **row} for index, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema=signal_schema(kind))


SOUND = {
    "outcome": [
        {"outcome_reward": 1.0, "verify_status": "ok"},
        {"outcome_reward": 0.0, "verify_status": "unparseable"},
    ],
    "format": [
        {"format_reward": 1.0, "format_ok": True},
        {"status": "error", "format_reward": None, "format_ok": None},
    ],
    "process_steps": [
        {"process_scores": [0.5, 1.0], "process_ends": [1, 3]},
        {"process_scores": [0.5], "process_ends": [2]},
    ],
    "process_tokens": [{"process_scores": [0.5, 0.0, 1.0]}, {"status": "neg_inf", "process_scores": None}],
    "logprobs": [{"logprobs": [-0.5, 0.0, -1.0]}, {"logprobs": [-1.0, 0.0]}],
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_signal_of_each_kind_is_found_sound(tmp_path, make_dataset, rollouts, kind):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    assert verify(make_signal(str(tmp_path / kind), made, [_kind(kind, *SOUND[kind])]).url) == []


NAN, INF = float("nan"), float("inf")
NULL = "{} must be null exactly where status is not ok"
FINITE = "{} holds NaN or infinity"
STATUSES = "{} is none of ok, timeout, error, too_long, no_input, neg_inf"
UNEQUAL = "{} and {} have different lengths"
RISE = "{} does not strictly increase from above 0"
LAST = "the last of {} is not the length of the completion"


@pytest.mark.parametrize(
    ("kind", "spoiled", "code", "message"),
    [
        ("outcome", {"outcome_reward": None}, "null_status", NULL.format("outcome_reward")),
        ("outcome", {"status": "timeout"}, "null_status", NULL.format("outcome_reward")),
        ("outcome", {"status": "late", "outcome_reward": None}, "value", STATUSES.format("status")),
        (
            "outcome",
            {"verify_status": "right"},
            "value",
            "verify_status is none of ok, wrong, unparseable, timeout, error, unknown",
        ),
        ("outcome", {"outcome_reward": INF}, "finite", FINITE.format("outcome_reward")),
        (
            "outcome",
            {"status": "error", "outcome_reward": None, "extracted_answer": "4"},
            "null_status",
            "extracted_answer must be null where status is not ok",
        ),
        ("format", {"format_ok": None}, "null_status", NULL.format("format_ok")),
        ("format", {"format_reward": NAN}, "finite", FINITE.format("format_reward")),
        ("process_steps", {"process_ends": [1]}, "lengths", UNEQUAL.format("process_scores", "process_ends")),
        ("process_steps", {"process_ends": [3, 3]}, "ends", RISE.format("process_ends")),
        ("process_steps", {"process_ends": [0, 3]}, "ends", RISE.format("process_ends")),
        ("process_steps", {"process_scores": [NAN, 0.0]}, "finite", FINITE.format("process_scores")),
        ("process_tokens", {"process_scores": [0.5, 0.0, NAN]}, "finite", FINITE.format("process_scores")),
        ("process_tokens", {"process_scores": None}, "null_status", NULL.format("process_scores")),
        ("logprobs", {"status": "neg_inf"}, "null_status", NULL.format("logprobs")),
        ("logprobs", {"logprobs": [-INF, 0.0, 0.0]}, "finite", FINITE.format("logprobs")),
    ],
)
def test_a_signal_that_breaks_a_rule_of_its_kind_is_not_committed(kind, spoiled, code, message):
    first, second = SOUND[kind]
    table = _kind(kind, {**first, **spoiled}, second)
    assert problems(table, "score") == [(code, [0], message)]
    with pytest.raises(PartError, match=rf"^part 0: {re.escape(message)}: a/0 \[{code}\]\. Nothing was committed$"):
        check_part(table, "score", where="part 0")


def test_a_signal_may_break_two_rules_at_once():
    first, second = SOUND["process_steps"]
    assert problems(_kind("process_steps", {**first, "process_ends": None}, second), "score") == [
        ("null_status", [0], NULL.format("process_ends")),
        ("lengths", [0], UNEQUAL.format("process_scores", "process_ends")),
    ]


@pytest.mark.parametrize(
    ("ends", "rows"),
    [
        ([[1, 3], [2, 2]], [1]),
        ([[1, 3], [1, 2]], []),
        ([[2, 1], [0, 1]], [0, 1]),
        ([[], [1, 2]], []),
        ([None, [1, 1]], [1]),
        ([[1], []], []),
    ],
)
def test_ends_rise_within_each_row(ends, rows):
    steps = [
        {"status": "error"} if row is None else {"process_ends": row, "process_scores": [0.5] * len(row)}
        for row in ends
    ]
    expected = [("ends", rows, RISE.format("process_ends"))] if rows else []
    assert problems(_kind("process_steps", *steps), "score") == expected


def test_columns_of_no_kind_of_signal_are_refused_with_the_kinds():
    says = (
        "the columns rollout_id, status, score fit no kind of signal; "
        "the kinds are outcome, format, process_steps, process_tokens, logprobs"
    )
    with pytest.raises(PartError, match=f"^{re.escape(says)}$"):
        signal_kind(["rollout_id", "status", "score"])


def test_the_first_three_offenders_are_named_and_the_others_counted():
    table = pa.table({"group_id": [f"g{i}" for i in range(5)]})
    for rows, says in (([0, 1, 2], "wrong: g0, g1, g2"), ([0, 1, 3, 4], "wrong: g0, g1, g3 and 1 more"), ([], "wrong")):
        assert describe(Problem("code", np.array(rows, np.int64), "wrong"), table) == says


@pytest.mark.parametrize(
    ("kind", "spoiled", "code"),
    [
        ("process_steps", {"process_ends": [1, 2]}, "ends"),
        ("process_tokens", {"process_scores": [0.5, 0.0]}, "lengths"),
        ("process_tokens", {"process_scores": [0.5, 0.1, 0.2]}, "masked_values"),
        ("logprobs", {"logprobs": [-0.5, -0.5, -1.0]}, "masked_values"),
    ],
)
def test_a_signal_that_does_not_fit_its_rollouts_is_found(tmp_path, make_dataset, rollouts, kind, spoiled, code):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    first, second = SOUND[kind]
    signal = make_signal(str(tmp_path / kind), made, [_kind(kind, {**first, **spoiled}, second)])
    [(found, message)] = errors_of(signal.url)
    assert found == code
    assert message.endswith(": a/0")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([0, 1], "2 rows for 4 rollouts"),
        ([2, 3, 0, 1], "the rows are not the rollouts' in their order: b/0, b/1, a/0 and 1 more"),
    ],
)
def test_a_signal_with_other_rows_than_its_rollouts_is_found(tmp_path, make_dataset, rollouts, outcomes, rows, says):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a", "b"))
    signal = make_signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a", "b")).take(rows)])
    file = signal.store.path(signal.parts[0].data)
    assert Finding("error", "alignment", file, says) in verify(signal.url)


def _shaped(rollouts: pa.Table, **columns: list) -> pa.Table:
    ok = {"status_prm": ["ok", "error"], "detail_prm": [None, "boom"]}
    shaping = {
        "process_scores": [[0.5, 1.0], None],
        "process_ends": [[1, 3], None],
        "chunk_ends": [[1, 3], [2]],
        "chunk_credits": [[0.5, 0.25], [0.0]],
        "chunk_advantages": [[0.5, 0.25], [0.0]],
        "path_score": [0.75, None],
        "trainable": [True, False],
        "policy_digest": ["d" * 64] * 2,
        "round": [0, 0],
    }
    schema = shaped_schema({"prm": "process_steps"})
    given = {**{name: rollouts[name] for name in ROLLOUTS.names}, **ok, **shaping, **columns}
    arrays = {
        name: given[name]
        if isinstance(given[name], pa.ChunkedArray)
        else pa.array(given[name], schema.field(name).type)
        for name in schema.names
    }
    return pa.table(arrays, schema=schema)


def _shape(url: str, made, table: pa.Table) -> str:
    carried, inputs = made.spec.carried, {"rollouts": made.ref(url)}
    spec = DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs=inputs, carried=carried)
    ds = create_dataset(url, spec)
    commit_part(ds, 0, table)
    finalize(ds)
    return url


def test_a_sound_shaped_dataset_is_found_sound_and_one_of_other_rollouts_is_not(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    assert verify(_shape(str(tmp_path / "shaped"), made, _shaped(rollouts("a")))) == []
    other = _shape(str(tmp_path / "other"), made, _shaped(rollouts("a", text=["changed"] * 2)))
    file = Store(other).path(open_dataset(other).parts[0].data)
    assert verify(other) == [Finding("error", "alignment", file, "column text is not that of its rollouts")]


NOT_0 = "a row that is not trainable has {} other than 0"


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        (
            {"behavior_logprobs": [[-0.5, -0.5, -1.5], [-0.5, 0.0]]},
            ("masked_values", [0], "behavior_logprobs is not 0.0 at a masked token"),
        ),
        ({"chunk_ends": [[1, 2], [2]]}, ("ends", [0], LAST.format("chunk_ends"))),
        ({"chunk_ends": [[3, 3], [2]]}, ("ends", [0], RISE.format("chunk_ends"))),
        ({"chunk_ends": [[0, 3], [2]]}, ("ends", [0], RISE.format("chunk_ends"))),
        ({"chunk_ends": [[1, 3], [3]]}, ("ends", [1], LAST.format("chunk_ends"))),
        ({"chunk_credits": [[0.5], [0.0]]}, ("lengths", [0], UNEQUAL.format("chunk_credits", "chunk_ends"))),
        ({"chunk_advantages": [[0.5], [0.0]]}, ("lengths", [0], UNEQUAL.format("chunk_advantages", "chunk_ends"))),
        ({"chunk_advantages": [[0.5, INF], [0.0]]}, ("finite", [0], FINITE.format("chunk_advantages"))),
        ({"chunk_credits": [[NAN, 0.5], [0.0]]}, ("finite", [0], FINITE.format("chunk_credits"))),
        ({"path_score": [NAN, None]}, ("finite", [0], FINITE.format("path_score"))),
        ({"path_score": [0.5, 0.5]}, ("untrainable", [1], "a row that is not trainable has a path_score")),
        ({"chunk_credits": [[0.5, 0.25], [0.5]]}, ("untrainable", [1], NOT_0.format("chunk_credits"))),
        ({"chunk_advantages": [[0.5, 0.25], [0.5]]}, ("untrainable", [1], NOT_0.format("chunk_advantages"))),
        (
            {
                "chunk_ends": [[1, 3], [1, 2]],
                "chunk_credits": [[0.5, 0.25], [0.0] * 2],
                "chunk_advantages": [[0.5, 0.25], [0.0] * 2],
            },
            ("untrainable", [1], "a row that is not trainable has more than one chunk"),
        ),
        ({"process_ends": [[1, 2], None]}, ("ends", [0], LAST.format("process_ends"))),
        ({"process_ends": [[3], None]}, ("lengths", [0], UNEQUAL.format("process_scores", "process_ends"))),
        ({"process_scores": [[0.5, NAN], None]}, ("finite", [0], FINITE.format("process_scores"))),
        ({"status_prm": ["fine", "error"]}, ("value", [0], STATUSES.format("status_prm"))),
    ],
)
def test_a_shaped_part_that_breaks_a_rule_is_not_committed(rollouts, spoiled, expected):
    assert problems(_shaped(rollouts("a")), "shape") == []
    assert problems(_shaped(rollouts("a"), **spoiled), "shape") == [expected]


@pytest.mark.parametrize(
    ("column", "kind", "values", "expected"),
    [
        ("outcome_reward", pa.float32(), [1.0, INF], ("finite", [1], FINITE.format("outcome_reward"))),
        ("format_reward", pa.float32(), [NAN, None], ("finite", [0], FINITE.format("format_reward"))),
        ("ref_logprobs", pa.list_(pa.float32()), [[0.0] * 3, None], None),
        (
            "ref_logprobs",
            pa.list_(pa.float32()),
            [[0.0] * 3, [0.0]],
            ("lengths", [1], UNEQUAL.format("ref_logprobs", "token_ids")),
        ),
        (
            "ref_logprobs",
            pa.list_(pa.float32()),
            [[-1.0] * 3, None],
            ("masked_values", [0], "ref_logprobs is not 0.0 at a masked token"),
        ),
    ],
)
def test_a_shaped_part_with_a_spoiled_stream_is_not_committed(rollouts, column, kind, values, expected):
    table = _shaped(rollouts("a")).append_column(column, pa.array(values, kind))
    assert problems(table, "shape") == ([expected] if expected else [])


ONE_OF = "exactly one of prompt and messages must be set"


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"prompt_id": ["a", "a"]}, ("unique_ids", [1], "prompt_id appears twice")),
        ({"prompt_id": ["a/b", "c"]}, ("id_form", [0], 'prompt_id holds "/", which is to be percent-encoded')),
        ({"prompt": ["x", None]}, ("prompt_or_messages", [1], ONE_OF)),
        ({"messages": [[{"role": "user", "content": "x"}], None]}, ("prompt_or_messages", [0], ONE_OF)),
    ],
)
def test_prompts_that_break_a_rule_are_not_committed(spoiled, expected):
    def prompts(**columns: list) -> pa.Table:
        given = {"prompt_id": ["a", "b"], "prompt": ["x", "y"], "source": ["s"] * 2, **columns}
        return pa.table(
            {field.name: pa.array(given.get(field.name, [None] * 2), field.type) for field in PROMPTS}, schema=PROMPTS
        )

    assert problems(prompts(), "prompts") == []
    assert problems(prompts(**spoiled), "prompts") == [expected]
    code, [row], message = expected
    prompt = prompts(**spoiled)["prompt_id"][row]
    with pytest.raises(PartError, match=re.escape(f"part 0: {message}: {prompt} [{code}]")):
        check_part(prompts(**spoiled), "prompts", where="part 0")


@pytest.mark.parametrize(
    ("schema", "stage"),
    [
        (PROMPTS, "prompts"),
        (ROLLOUTS, "generate"),
        *((signal_schema(kind), "score") for kind in SOUND),
        (shaped_schema({"prm": "process_steps", "ref": "logprobs"}), "shape"),
    ],
)
def test_a_part_without_rows_is_sound(schema, stage):
    assert problems(pa.Table.from_batches([], schema), stage) == []
    assert problems(schema.empty_table(), stage) == []


def test_empty_completions_are_sound(tmp_path, make_dataset, rollouts):
    empty = {"token_ids": [[], []], "behavior_logprobs": [[], []], "loss_mask": [[], []]}
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a", **empty))
    nothing = [{"process_scores": [], "process_ends": []}] * 2
    assert verify(make_signal(str(tmp_path / "prm"), made, [_kind("process_steps", *nothing)]).url) == []
    shaping = {
        "process_scores": [[], None],
        "process_ends": [[], None],
        "chunk_ends": [[], []],
        "chunk_credits": [[], []],
    }
    table = _shaped(
        rollouts("a", **empty), **shaping, chunk_advantages=[[], []], path_score=[None, None], trainable=[False, False]
    )
    assert verify(_shape(str(tmp_path / "shaped"), made, table)) == []


def test_masks_are_compared_row_by_row_where_some_rows_are_null(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    null_first = [{"status": "error", "logprobs": None}, {"logprobs": [-1.0, 0.0]}]
    assert verify(make_signal(str(tmp_path / "sound"), made, [_kind("logprobs", *null_first)]).url) == []
    wrong = [{"status": "error", "logprobs": None}, {"logprobs": [-1.0, -1.0]}]
    [(code, message)] = errors_of(make_signal(str(tmp_path / "wrong"), made, [_kind("logprobs", *wrong)]).url)
    assert (code, message[-5:]) == ("masked_values", ": a/1")


def test_one_value_changed_anywhere_in_a_large_part_is_found_in_its_row(rollouts):
    table = rollouts(*[f"g{index}" for index in range(500)])
    values = table["behavior_logprobs"].to_pylist()
    row = int(np.random.default_rng(5).integers(0, len(values)))
    values[row][1] = -0.25
    with pytest.raises(PartError, match=rf"masked token: g{row // 2}/{row % 2} \["):
        check_part(put(table, "behavior_logprobs", values), "generate", where="part 0")


def test_a_part_that_cannot_be_compared_with_its_rollouts_says_why(near_root, make_dataset, rollouts, outcomes):
    made = make_dataset(f"{near_root}/rollouts", rollouts("a"), rollouts("b", "c"))
    signal = make_signal(f"{near_root}/outcome", made, [outcomes(made.read_part(part)) for part in range(2)])
    table, sink = outcomes(made.read_part(1)), io.BytesIO()
    schema = pq.read_schema(io.BytesIO(part_bytes(table, "score")))
    pq.write_table(pa.Table.from_arrays(table.columns, schema=schema), sink, row_group_size=2)
    smuggle(signal.url, 1, sink.getvalue())
    made.store.remove(made.parts[0].data)
    file = made.store.path(made.parts[0].data)
    gone = f"{file} is gone, but the manifest names it; the command that made it makes the part again"
    files = [signal.store.path(record.data) for record in open_dataset(signal.url).parts]
    assert [finding for finding in verify(signal.url) if finding.severity == "error"] == [
        Finding("error", "alignment", files[0], f"its rollouts' part cannot be read to compare with: {gone}"),
        Finding("error", "alignment", files[1], "row groups of [2, 2] rows, its rollouts' of [4]"),
    ]
