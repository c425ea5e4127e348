"""What a part of each kind must be: signals, shaped parts, prompts; and what verify compares with the rollouts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from verifying import errors_of, make_signal, put

from pass_ops.errors import PartError
from pass_ops.shards import (
    ROLLOUTS,
    DatasetSpec,
    commit_part,
    create_dataset,
    finalize,
    shaped_schema,
    signal_schema,
    verify,
)
from pass_ops.shards.checks import check_part


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


@pytest.mark.parametrize(
    ("kind", "spoiled", "code"),
    [
        ("outcome", {"outcome_reward": None}, "null_status"),
        ("outcome", {"status": "timeout"}, "null_status"),
        ("outcome", {"status": "late", "outcome_reward": None}, "value"),
        ("outcome", {"verify_status": "right"}, "value"),
        ("outcome", {"outcome_reward": float("inf")}, "finite"),
        ("outcome", {"status": "error", "outcome_reward": None, "extracted_answer": "4"}, "null_status"),
        ("format", {"format_ok": None}, "null_status"),
        ("process_steps", {"process_ends": [1]}, "lengths"),
        ("process_steps", {"process_ends": [3, 3]}, "ends"),
        ("process_steps", {"process_ends": [0, 3]}, "ends"),
        ("process_tokens", {"process_scores": [0.5, 0.0, float("nan")]}, "finite"),
        ("logprobs", {"status": "neg_inf"}, "null_status"),
    ],
)
def test_a_signal_that_breaks_a_rule_of_its_kind_is_not_committed(kind, spoiled, code):
    first, second = SOUND[kind]
    with pytest.raises(PartError, match=rf"a/0.*\[{code}\]"):
        check_part(_kind(kind, {**first, **spoiled}, second), "score", where="part 0")


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
    [([0, 1], "2 rows for 4 rollouts"), ([2, 3, 0, 1], "not the rollouts' in their order: b/0, b/1, a/0")],
)
def test_a_signal_with_other_rows_than_its_rollouts_is_found(tmp_path, make_dataset, rollouts, outcomes, rows, says):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a", "b"))
    signal = make_signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a", "b")).take(rows)])
    assert any(code == "alignment" and says in message for code, message in errors_of(signal.url))


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
    ds = create_dataset(
        url, DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs={"rollouts": made.ref(url)})
    )
    commit_part(ds, 0, table)
    finalize(ds)
    return url


def test_a_sound_shaped_dataset_is_found_sound_and_one_of_other_rollouts_is_not(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    assert verify(_shape(str(tmp_path / "shaped"), made, _shaped(rollouts("a")))) == []
    other = _shape(str(tmp_path / "other"), made, _shaped(rollouts("a", text=["changed"] * 2)))
    assert errors_of(other) == [("alignment", "column text is not that of its rollouts")]


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        ({"chunk_ends": [[1, 2], [2]]}, "ends"),
        ({"chunk_ends": [[3, 3], [2]]}, "ends"),
        ({"chunk_credits": [[0.5], [0.0]]}, "lengths"),
        ({"chunk_advantages": [[0.5, float("inf")], [0.0]]}, "finite"),
        ({"path_score": [float("nan"), None]}, "finite"),
        ({"path_score": [0.5, 0.5]}, "untrainable"),
        ({"chunk_credits": [[0.5, 0.25], [0.5]]}, "untrainable"),
        (
            {
                "chunk_ends": [[1, 3], [1, 2]],
                "chunk_credits": [[0.5, 0.25], [0.0] * 2],
                "chunk_advantages": [[0.5, 0.25], [0.0] * 2],
            },
            "untrainable",
        ),
        ({"process_ends": [[1, 2], None]}, "ends"),
        ({"status_prm": ["fine", "error"]}, "value"),
    ],
)
def test_a_shaped_part_that_breaks_a_rule_is_not_committed(rollouts, spoiled, code):
    check_part(_shaped(rollouts("a")), "shape", where="part 0")
    with pytest.raises(PartError, match=rf"\[{code}\]"):
        check_part(_shaped(rollouts("a"), **spoiled), "shape", where="part 0")


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        ({"prompt_id": ["a", "a"]}, "unique_ids"),
        ({"prompt_id": ["a/b", "c"]}, "id_form"),
        ({"prompt": ["x", None]}, "prompt_or_messages"),
        ({"messages": [[{"role": "user", "content": "x"}], None]}, "prompt_or_messages"),
    ],
)
def test_prompts_that_break_a_rule_are_not_committed(spoiled, code):
    from pass_ops.shards import PROMPTS

    def prompts(**columns: list) -> pa.Table:
        given = {"prompt_id": ["a", "b"], "prompt": ["x", "y"], "source": ["s"] * 2, **columns}
        return pa.table(
            {field.name: pa.array(given.get(field.name, [None] * 2), field.type) for field in PROMPTS}, schema=PROMPTS
        )

    check_part(prompts(), "prompts", where="part 0")
    with pytest.raises(PartError, match=rf"\[{code}\]"):
        check_part(prompts(**spoiled), "prompts", where="part 0")


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
