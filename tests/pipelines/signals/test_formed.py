"""Signals formed from stored ones: OPD, G-OPD, their sums over steps, and weighted means."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pass_ops.shards import PROMPTS, DatasetSpec, signal_schema
from pipelines.signals import SignalInputError, SignalOptionError, build_signal


def stored(kind: str, *values: dict | str) -> pa.Table:
    """A signal's table: one row a dict of its columns, or a status where it is null."""
    rows = [
        {"rollout_id": f"g/{i}", "status": "ok", **value}
        if isinstance(value, dict)
        else {"rollout_id": f"g/{i}", "status": value}
        for i, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=signal_schema(kind))


def logprobs(*values: list[float] | str) -> pa.Table:
    return stored("logprobs", *(value if isinstance(value, str) else {"logprobs": value} for value in values))


def scores(table: pa.Table) -> list[list[float] | None]:
    return table["process_scores"].to_pylist()


def test_opd_is_teacher_minus_policy_token_by_token(make_rollouts) -> None:
    rollouts = make_rollouts(
        {"ids": [1, 2, 3], "behavior_logprobs": [-1.0, 0.0, -2.0], "loss_mask": [True, False, True]}, {"ids": []}
    )
    table = build_signal("opd", {"teacher": "t"}).score(rollouts, {"t": logprobs([-0.5, 0.0, -4.0], [])})
    assert scores(table) == [[0.5, 0.0, -2.0], []]
    assert table.schema == signal_schema("process_tokens")


def test_opd_takes_the_policy_from_its_signal_where_one_is_named(make_rollouts) -> None:
    rollouts = make_rollouts({"ids": [1], "behavior_logprobs": [-9.0]})
    signal = build_signal("opd", {"teacher": "t", "policy": "p"})
    assert signal.inputs == ("t", "p")
    assert scores(signal.score(rollouts, {"t": logprobs([-0.5]), "p": logprobs([-1.0])})) == [[0.5]]


def test_g_opd_by_hand_and_at_lambda_one(make_rollouts) -> None:
    rollouts = make_rollouts({"ids": [1], "behavior_logprobs": [-1.0]})
    inputs = {"t": logprobs([-0.5]), "b": logprobs([-2.0])}
    # -[(-1 - -2) - 1.25 * (-0.5 - -2)] = -[1 - 1.875]
    assert scores(build_signal("g_opd", {"teacher": "t", "base": "b"}).score(rollouts, inputs)) == [[0.875]]
    assert scores(build_signal("g_opd", {"teacher": "t", "base": "b", "lam": 1.0}).score(rollouts, inputs)) == [[0.5]]


def test_a_row_without_one_of_its_values_is_null_and_says_which(make_rollouts) -> None:
    rollouts = make_rollouts(*({"ids": [1], "behavior_logprobs": [-1.0]} for _ in range(3)))
    inputs = {"t": logprobs("too_long", [-0.5], [-0.25]), "b": logprobs("ok", "neg_inf", [-2.0])}
    inputs["b"] = logprobs("error", "neg_inf", [-2.0])
    table = build_signal("g_opd", {"teacher": "t", "base": "b", "lam": 1.0}).score(rollouts, inputs)
    assert table["status"].to_pylist() == ["no_input", "no_input", "ok"]
    assert table["detail"].to_pylist() == ["teacher: too_long; base: error", "base: neg_inf", None]
    assert scores(table) == [None, None, [0.75]]


@pytest.mark.parametrize("lacking", [(), (0,), (0, 1)])
def test_opd_summed_over_steps(tokenizer_folder: str, make_rollouts, ids, lacking: tuple[int, ...]) -> None:
    rollouts = make_rollouts(
        {"text": "a\n\nbc", "ids": ids("a", "\n\n", "b", "c"), "behavior_logprobs": [-1.0, -2.0, -3.0, -4.0]},
        {"text": "", "ids": []},
    )
    signal = build_signal("opd", {"teacher": "t", "per": "step"})
    signal.setup(tokenizer_folder)
    values: list = [[-0.5, -2.5, -3.25, 0.0], []]
    inputs = {"t": logprobs(*("too_long" if i in lacking else value for i, value in enumerate(values)))}
    table = signal.score(rollouts, inputs)
    assert table.schema == signal_schema("process_steps")
    assert scores(table) == [None if i in lacking else value for i, value in enumerate([[0.0, 3.75], []])]
    ends = [None if i in lacking else value for i, value in enumerate([[2, 4], []])]
    assert table["process_ends"].to_pylist() == ends


def spec(stage: str, kind: str = "logprobs", **sampling) -> DatasetSpec:
    carried = {"sampling": {"group_size": 1, **sampling}} if stage == "generate" else {}
    return DatasetSpec(stage=stage, stage_version=1, options={"kind": kind}, parts=1, carried=carried)


def domains(**groups: str | None) -> pa.Table:
    rows = [
        {
            "prompt_id": group,
            "prompt": "?",
            "source": "s",
            "extra": None if domain is None else f'{{"domain": "{domain}"}}',
        }
        for group, domain in groups.items()
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def test_each_rows_teacher_is_chosen_by_a_column_of_its_prompt(make_rollouts) -> None:
    groups = {"g": "math", "h": "code", "i": "law", "j": None}
    rollouts = pa.concat_tables(
        [make_rollouts({"ids": [1], "behavior_logprobs": [-1.0]}, group=group) for group in groups]
    )
    inputs = {"m": logprobs([-0.5], "no_input", "no_input", "no_input"), "prompts": domains(**groups)}
    inputs["c"] = logprobs("no_input", [-0.25], "no_input", "no_input")
    inputs["rest"] = logprobs([-9.0], [-9.0], [-3.0], "too_long")
    by = {"by": "domain", "teachers": {"math": "m", "code": "c"}}
    signal = build_signal("opd", by)
    assert signal.inputs == ("m", "c", "prompts")
    table = signal.score(rollouts, inputs)
    assert scores(table) == [[0.5], [0.75], None, None]
    assert table["detail"].to_pylist()[2:] == [
        "there is no teacher for domain 'law'",
        "there is no teacher for domain None",
    ]
    table = build_signal("opd", {**by, "teacher": "rest"}).score(rollouts, inputs)
    assert scores(table) == [[0.5], [0.75], [-2.0], None]
    assert table["detail"].to_pylist()[3] == "teacher: too_long"
    based = build_signal("g_opd", {**by, "base": "rest", "lam": 1.0}).score(rollouts, inputs)
    assert scores(based) == [[0.5], [0.75], None, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no teacher is named"),
        ({"teacher": "t", "by": "domain"}, "by is set and teachers is not"),
        ({"teachers": {"math": "t"}}, "teachers is set and by is not"),
        ({"teachers": {"math": 1}, "by": "domain"}, "teachers.math is 1; give the name of a logprobs signal"),
        ({"teachers": {"math": "p"}, "by": "domain", "policy": "p"}, "one signal stands for two models"),
    ],
)
def test_teachers_that_cannot_be_chosen_are_refused(options: dict, said: str) -> None:
    with pytest.raises(SignalOptionError, match=said):
        build_signal("opd", options)


def test_the_column_that_chooses_a_teacher_has_to_be_there() -> None:
    signal = build_signal("opd", {"by": "domian", "teachers": {"math": "t"}})
    prompts = DatasetSpec(stage="prompts", stage_version=1, options={"extra": ["domain"]}, parts=1)
    with pytest.raises(SignalInputError, match=r"by names the column 'domian'.*did you mean 'domain'\?"):
        signal.check(spec("generate", **PLAIN), {"t": spec("score"), "prompts": prompts})


def test_one_teacher_is_the_same_dataset_as_before_there_were_several() -> None:
    assert build_signal("opd", {"teacher": "t"}).options() == {"teacher": "t", "policy": None, "per": "token"}
    several = build_signal("opd", {"teachers": {"math": "t"}, "by": "domain"}).options()
    assert (several["teachers"], several["by"]) == ({"math": "t"}, "domain")


PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


@pytest.mark.parametrize("changed", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_opd_of_tempered_or_truncated_rollouts_needs_a_signal_of_the_policy(changed: dict) -> None:
    inputs = {"t": spec("score"), "p": spec("score")}
    build_signal("opd", {"teacher": "t"}).check(spec("generate", **PLAIN), inputs)
    with pytest.raises(SignalInputError, match=r'behavior_logprobs are not those of temperature 1.*option "policy"'):
        build_signal("opd", {"teacher": "t"}).check(spec("generate", **{**PLAIN, **changed}), inputs)
    build_signal("opd", {"teacher": "t", "policy": "p"}).check(spec("generate", **{**PLAIN, **changed}), inputs)


def test_opd_refuses_a_teacher_that_is_no_logprobs_signal() -> None:
    with pytest.raises(SignalInputError, match="teacher: the signal 't' is of kind outcome"):
        build_signal("opd", {"teacher": "t"}).check(spec("generate", **PLAIN), {"t": spec("score", "outcome")})


def test_the_separator_counts_only_where_steps_are_cut() -> None:
    assert "separator" not in build_signal("opd", {"teacher": "t"}).options()
    assert build_signal("opd", {"teacher": "t", "per": "step"}).options()["separator"] == "\n\n"
    assert build_signal("opd", {"teacher": "t"}).needs_tokenizer is False
    assert build_signal("opd", {"teacher": "t", "per": "step"}).needs_tokenizer is True


def steps(*values: tuple[list[float], list[int]] | str) -> pa.Table:
    rows = (v if isinstance(v, str) else {"process_scores": v[0], "process_ends": v[1]} for v in values)
    return stored("process_steps", *rows)


def test_combine_is_the_weighted_mean_step_by_step(make_rollouts) -> None:
    rollouts = make_rollouts({"ids": [1] * 4}, {"ids": []})
    inputs = {"a": steps(([1.0, 0.0], [2, 4]), ([], [])), "b": steps(([0.0, 4.0], [2, 4]), ([], []))}
    table = build_signal("combine", {"signals": ["a", "b"], "weights": [3.0, 1.0]}).score(rollouts, inputs)
    assert scores(table) == [[0.75, 1.0], []]
    assert table["process_ends"].to_pylist() == [[2, 4], []]
    assert scores(build_signal("combine", {"signals": ["a", "b"]}).score(rollouts, inputs)) == [[0.5, 2.0], []]


def test_combine_is_null_where_one_is_null(make_rollouts) -> None:
    rollouts = make_rollouts({"ids": [1]}, {"ids": [1]})
    inputs = {"a": steps(([1.0], [1]), "timeout"), "b": steps("error", "too_long")}
    table = build_signal("combine", {"signals": ["a", "b"]}).score(rollouts, inputs)
    assert table["status"].to_pylist() == ["no_input", "no_input"]
    assert table["detail"].to_pylist() == ["b: error", "a: timeout; b: too_long"]
    assert scores(table) == [None, None]


def test_combine_refuses_steps_that_end_elsewhere(make_rollouts) -> None:
    inputs = {"a": steps(([1.0, 1.0], [1, 3])), "b": steps(([1.0, 1.0], [2, 3]))}
    with pytest.raises(
        SignalInputError, match=r"rollout 'g/0': the steps of 'a' end at \[1, 3\], those of 'b' at \[2, 3\]"
    ):
        build_signal("combine", {"signals": ["a", "b"]}).score(make_rollouts({"ids": [1] * 3}), inputs)


def test_combine_per_token(make_rollouts) -> None:
    inputs = {
        name: stored("process_tokens", {"process_scores": values})
        for name, values in (("a", [1.0, 2.0]), ("b", [3.0, 0.0]))
    }
    table = build_signal("combine", {"signals": ["a", "b"], "per": "token"}).score(
        make_rollouts({"ids": [1, 2]}), inputs
    )
    assert table.schema == signal_schema("process_tokens")
    assert scores(table) == [[2.0, 1.0]]


def test_combine_refuses_kinds_that_do_not_go_together() -> None:
    kinds = {"a": spec("score", "process_steps"), "b": spec("score", "process_tokens")}
    with pytest.raises(
        SignalInputError, match="'b' is of kind process_tokens; with per = 'step' all must be of kind process_steps"
    ):
        build_signal("combine", {"signals": ["a", "b"]}).check(spec("generate"), kinds)
