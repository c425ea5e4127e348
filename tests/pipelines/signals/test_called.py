"""The signals that call functions in killable processes: outcome, format, execution; golden cases for every status."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops.shards import PROMPTS, DatasetSpec
from pipelines.signals import SignalInputError, SignalOptionError, build_signal
from pipelines.verifiers import VERIFIERS

LIMIT_S = 2.0

FUNCTIONS = """
import os, time
from pipelines.verifiers import Verdict

def verify(text, answer, *, share=1.0):
    if text == "hang": time.sleep(3600)
    if text == "crash": os._exit(1)
    if text == "partial": return Verdict(correct=True, reward=share)
    if text == "half": return 0.5
    if answer == "unreadable": raise ValueError("no number in it")
    return text == answer

def formed(text, *, word="ok"):
    if text == "hang": time.sleep(3600)
    if text == "crash": os._exit(1)
    if text == "odd": return 1
    return word in text

def check(prompt, steps, *, right=1.0):
    if steps[0] == "hang": time.sleep(3600)
    if steps[0] == "crash": os._exit(1)
    if steps[0] == "short": return []
    if steps[0] == "nan": return [float("nan")] * len(steps)
    if steps[0] == "huge": return [1e39] * len(steps)
    return [right if step in prompt else 0 for step in steps]
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "called_functions", raising=False)
    (tmp_path / "called_functions.py").write_text(FUNCTIONS)
    return tmp_path / "called_functions.py"


def rows(table: pa.Table, *names: str) -> list[tuple]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


OUTCOME = ("status", "verify_status", "outcome_reward", "extracted_answer")


def test_outcome_by_a_named_verifier(make_rollouts) -> None:
    rollouts = make_rollouts(
        {"text": "so 1,072", "answer": "#### 1072"},
        {"text": "so 9", "answer": "1072"},
        {"text": "no idea", "answer": "1072"},
        {"text": "1072", "answer": "unknown"},
        {"text": "1072"},
    )
    table = build_signal("outcome", {"verifier": "number", "workers": 1}).score(rollouts, {})
    assert rows(table, *OUTCOME) == [
        ("ok", "ok", 1.0, "1072"),
        ("ok", "wrong", 0.0, "9"),
        ("ok", "unparseable", 0.0, None),
        ("error", "error", None, None),
        ("no_input", "error", None, None),
    ]
    assert table["detail"].to_pylist()[3:] == [
        "ValueError: the reference answer 'unknown' holds no number",
        "the prompt has no reference answer",
    ]


def own_outcome(**options):
    return build_signal(
        "outcome", {"verifier": "called_functions:verify", "workers": 1, "timeout_s": LIMIT_S, **options}
    )


def test_outcome_of_samples_that_hang_or_crash_leaves_their_neighbours_alone(functions, make_rollouts) -> None:
    texts = ["a", "hang", "b", "crash", "a", "half", "partial"]
    rollouts = make_rollouts(*({"text": text, "answer": "a"} for text in texts))
    assert rows(own_outcome().score(rollouts, {}), *OUTCOME[:3]) == [
        ("ok", "ok", 1.0),
        ("timeout", "timeout", None),
        ("ok", "wrong", 0.0),
        ("error", "error", None),
        ("ok", "ok", 1.0),
        ("error", "error", None),
        ("ok", "ok", 1.0),
    ]


def test_a_timeout_gives_timeout_reward_where_it_is_set(functions, make_rollouts) -> None:
    rollouts = make_rollouts({"text": "hang", "answer": "a"}, {"text": "crash", "answer": "a"})
    found = rows(own_outcome(timeout_reward=-1.0).score(rollouts, {}), *OUTCOME[:3])
    assert found == [("ok", "timeout", -1.0), ("error", "error", None)]


def test_verifier_options_reach_the_verifier(functions, make_rollouts) -> None:
    rollouts = make_rollouts({"text": "partial", "answer": "a"})
    table = own_outcome(verifier_options={"share": 0.25}).score(rollouts, {})
    assert rows(table, *OUTCOME[:3]) == [("ok", "ok", 0.25)]


def test_a_verifier_that_cannot_be_called_with_its_options_is_refused_before_anything_runs(functions) -> None:
    with pytest.raises(SignalOptionError, match=r"called_functions:verify .*'shre'.*did you mean 'share'"):
        own_outcome(verifier_options={"shre": 1}).check(None, {})
    with pytest.raises(SignalOptionError, match=r"missing.*'pattern'"):
        build_signal("outcome", {"verifier": "regex"}).check(None, {})
    own_outcome(verifier_options={"share": 1}).check(None, {})


def test_the_source_of_a_verifier_of_ones_own_is_in_the_code_digest(functions: Path) -> None:
    before = own_outcome().code()
    functions.write_text(FUNCTIONS + "# changed\n")
    assert set(before) == {"called_functions:verify"}
    assert own_outcome().code() != before


def test_the_revision_of_a_shipped_verifier_is_in_the_environment_where_its_verdicts_have_changed() -> None:
    revisions = {
        name: build_signal("outcome", {"verifier": name}).environment().get("verifier_revision") for name in VERIFIERS
    }
    assert revisions == dict.fromkeys(VERIFIERS, 2) | {"regex": None}


def test_an_empty_part_makes_an_empty_sidecar(make_rollouts) -> None:
    empty = make_rollouts({}).slice(0, 0)
    assert build_signal("outcome", {"verifier": "number"}).score(empty, {}).num_rows == 0


def test_format_by_a_pattern(make_rollouts) -> None:
    rollouts = make_rollouts({"text": "A66"}, {"text": "A66 "}, {"text": ""})
    options = {"pattern": r"A\d\d", "reward_bad": -0.5, "workers": 1}
    table = build_signal("format", options).score(rollouts, {})
    assert rows(table, "status", "format_ok", "format_reward") == [
        ("ok", True, 1.0),
        ("ok", False, -0.5),
        ("ok", False, -0.5),
    ]
    searched = build_signal("format", {**options, "mode": "search", "reward_ok": 2}).score(rollouts, {})
    assert rows(searched, "format_ok", "format_reward") == [(True, 2.0), (True, 2.0), (False, -0.5)]


def test_format_by_a_pattern_that_backtracks_for_ever_costs_one_row(make_rollouts) -> None:
    rollouts = make_rollouts({"text": "aaa"}, {"text": "a" * 60 + "!"}, {"text": "aa"})
    options = {"pattern": "(a+)+", "timeout_s": LIMIT_S, "workers": 1}
    table = build_signal("format", options).score(rollouts, {})
    assert rows(table, "status", "format_ok") == [("ok", True), ("timeout", None), ("ok", True)]


def test_format_by_a_function(functions, make_rollouts) -> None:
    rollouts = make_rollouts(*({"text": text} for text in ["ok", "hang", "no", "crash", "odd"]))
    options = {"function": "called_functions:formed", "timeout_s": LIMIT_S, "workers": 1}
    table = build_signal("format", options).score(rollouts, {})
    assert rows(table, "status", "format_ok", "format_reward") == [
        ("ok", True, 1.0),
        ("timeout", None, None),
        ("ok", False, 0.0),
        ("error", None, None),
        ("error", None, None),
    ]
    other = build_signal("format", {**options, "function_options": {"word": "n"}}).score(rollouts.slice(2, 1), {})
    assert rows(other, "format_ok") == [(True,)]
    assert set(build_signal("format", options).code()) == {"called_functions:formed"}


def prompts_table(**prompts) -> pa.Table:
    made = [
        {"prompt_id": name, "prompt": value if isinstance(value, str) else None, "source": "s",
         "messages": None if isinstance(value, str) else value}
        for name, value in prompts.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(made, schema=PROMPTS)


@pytest.fixture
def execution(functions, tokenizer_folder: str):
    def make(**options):
        given = {"checker": "called_functions:check", "separator": "\n", "timeout_s": LIMIT_S, "workers": 1}
        signal = build_signal("execution", {**given, **options})
        signal.setup(tokenizer_folder)
        return signal

    return make


def test_execution_scores_every_step_and_finds_its_end(execution, make_rollouts, ids) -> None:
    rollouts = make_rollouts(
        {"text": "a\nb", "ids": ids("a", "\n", "b", "<end>")},
        {"text": "c\nc", "ids": ids("c", "\n", "c")},
        {"text": "", "ids": []},
        {"text": "", "ids": ids("<end>")},
    )
    table = execution().score(rollouts, {"prompts": prompts_table(other="c", g="ac")})
    assert rows(table, "status", "process_scores", "process_ends") == [
        ("ok", [1.0, 0.0], [2, 4]),
        ("ok", [1.0, 1.0], [2, 3]),
        ("ok", [], []),
        ("ok", [1.0], [1]),
    ]


def test_execution_of_a_checker_gone_wrong_is_null_with_the_cause(
    execution, tmp_path, make_rollouts, monkeypatch
) -> None:
    from pipelines.signals.execution import ExecutionSignal
    from pipelines.signals.steps import Steps

    texts = ["hang", "crash", "short", "nan", "huge", "a"]
    monkeypatch.setattr(ExecutionSignal, "cut", lambda *_: [Steps([1], [text]) for text in texts])
    rollouts = make_rollouts(*({"text": text, "ids": [0]} for text in texts))
    table = execution().score(rollouts, {"prompts": prompts_table(g="a")})
    assert rows(table, "status", "process_scores") == [
        ("timeout", None),
        ("error", None),
        ("error", None),
        ("error", None),
        ("error", None),
        ("ok", [1.0]),
    ]
    assert table["detail"].to_pylist()[2:5] == [
        "the checker gave 0 scores for 1 steps",
        "ValueError: the score of step 0 is nan; scores must be finite float32 numbers",
        "ValueError: the score of step 0 is 1e+39; scores must be finite float32 numbers",
    ]


def test_execution_takes_the_last_word_of_the_user_as_the_task_of_a_chat(execution, make_rollouts, ids) -> None:
    said = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
    rollouts = make_rollouts({"text": "a\nb", "ids": ids("a", "\n", "b")})
    table = execution(checker_options={"right": 2.0}).score(rollouts, {"prompts": prompts_table(g=said)})
    assert table["process_scores"].to_pylist() == [[2.0, 0.0]]


def test_execution_refuses_prompts_of_other_rollouts(execution, make_rollouts, ids) -> None:
    rollouts = make_rollouts({"text": "a", "ids": ids("a")})
    with pytest.raises(SignalInputError, match="group 'g' of the rollouts is not among the prompts"):
        execution().score(rollouts, {"prompts": prompts_table(h="a")})


def test_execution_reads_the_prompts_and_needs_the_tokenizer(execution) -> None:
    signal = execution()
    assert (signal.kind, signal.inputs, signal.needs_tokenizer) == ("process_steps", ("prompts",), True)
    assert set(signal.code()) == {"called_functions:check"}
    signal.check(DatasetSpec(stage="prompts", stage_version=1, options={}, parts=1), {})
    with pytest.raises(SignalOptionError, match="did you mean 'right'"):
        execution(checker_options={"rigt": 1}).check(None, {})
