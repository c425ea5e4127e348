"""The score stage as a Beam job over a stored run: golden sidecars, inputs that are refused, resuming."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops import shards
from pass_ops.errors import FingerprintMismatchError, IncompleteDatasetError, StaleInputError
from pipelines.parts.inputs import AlignmentError, WrongInputError
from pipelines.signals import Row, SignalBase, SignalInputError, SignalResultError, build_signal, sidecar
from pipelines.signals.stage import ScoreWork, score, score_part

CHECKER = """
import os, time

def check(prompt, steps):
    if steps[0] == "1": os._exit(1)
    return [float(step.lstrip("+") in prompt) for step in steps]
"""


@pytest.fixture
def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "score_checker", raising=False)
    (tmp_path / "score_checker.py").write_text(CHECKER)
    return tmp_path / "score_checker.py"


OUTCOME = {"verifier": "regex", "verifier_options": {"pattern": r"=(\d)$"}, "workers": 1}


def column(url: str, name: str) -> list:
    dataset = shards.open_dataset(url)
    return [value for part in range(dataset.spec.parts) for value in dataset.read_part(part)[name].to_pylist()]


def score_outcome(run, **options) -> None:
    score(signal=build_signal("outcome", {**OUTCOME, **options}), rollouts=run.rollouts, out=run.signal("right"))


def score_teacher(run, name: str = "teacher", seed: int = 0) -> None:
    engine = {"kind": "recorded", "recording": f"synthetic:{seed}"}
    signal = build_signal("logprobs", {"model": run.model, "engine": engine})
    score(signal=signal, rollouts=run.rollouts, out=run.signal(name))


def test_an_outcome_signal_is_row_for_row_the_rollouts(run) -> None:
    score_outcome(run)
    assert column(run.signal("right"), "rollout_id") == column(run.rollouts, "rollout_id")
    assert column(run.signal("right"), "outcome_reward") == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert column(run.signal("right"), "verify_status") == [
        "ok", "wrong", "ok", "unparseable", "unparseable", "ok", "unparseable", "ok", "wrong",
    ]  # fmt: skip
    assert shards.open_dataset(run.signal("right")).read_part(1).num_rows == 4


def test_the_dataset_says_what_it_was_made_of(run, checker) -> None:
    signal = build_signal("execution", {"checker": "score_checker:check", "separator": "\n"})
    score(signal=signal, rollouts=run.rollouts, prompts=run.prompts, tokenizer=run.model, out=run.signal("steps"))
    spec = shards.open_dataset(run.signal("steps")).spec
    assert spec.stage == "score"
    assert (spec.options["signal"], spec.options["kind"]) == ("execution", "process_steps")
    assert spec.options["separator"] == "\n"
    assert list(spec.options["code"]) == ["score_checker:check"]
    assert {name: ref.folder for name, ref in spec.inputs.items()} == {
        "rollouts": "../../rollouts",
        "prompts": "../../prompts",
    }


def test_execution_reads_the_prompts_of_its_part(run, checker) -> None:
    signal = build_signal("execution", {"checker": "score_checker:check", "separator": "\n"})
    score(signal=signal, rollouts=run.rollouts, prompts=run.prompts, tokenizer=run.model, out=run.signal("steps"))
    assert column(run.signal("steps"), "status") == ["ok", "ok", "error", "error", "ok", "ok", "ok", "ok", "ok"]
    assert column(run.signal("steps"), "process_scores") == [
        [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], None, None, [0.0], [1.0, 1.0, 0.0], [], [0.0], [1.0, 0.0],
    ]  # fmt: skip
    assert column(run.signal("steps"), "process_ends") == [
        [2, 5, 8], [2, 5, 8], None, None, [1], [2, 5, 8], [], [3], [2, 5],
    ]  # fmt: skip


def test_opd_and_combinations_are_made_of_stored_signals(run) -> None:
    score_teacher(run)
    for name, options in (
        ("opd", {"teacher": "teacher"}),
        ("summed", {"teacher": "teacher", "per": "step", "separator": "\n"}),
    ):
        score(
            signal=build_signal("opd", options),
            rollouts=run.rollouts,
            signals={"teacher": run.signal("teacher")},
            tokenizer=run.model,
            out=run.signal(name),
        )
    teacher, policy = column(run.signal("teacher"), "logprobs"), column(run.rollouts, "behavior_logprobs")
    per_token = [[t - p for t, p in zip(*rows, strict=True)] for rows in zip(teacher, policy, strict=True)]
    assert column(run.signal("opd"), "process_scores") == [pytest.approx(row, abs=1e-6) for row in per_token]
    ends = column(run.signal("summed"), "process_ends")
    assert ends[0] == [2, 5, 8]
    sums = [[sum(row[a:b]) for a, b in pairwise([0, *e])] for row, e in zip(per_token, ends, strict=True)]
    assert column(run.signal("summed"), "process_scores") == [pytest.approx(row, abs=1e-5) for row in sums]


def test_a_rerun_changes_no_byte_and_scores_nothing_again(run, checker) -> None:
    score_outcome(run)
    files = {path: path.stat().st_mtime_ns for path in Path(run.signal("right")).glob("*.parquet")}
    digest = shards.open_dataset(run.signal("right")).content_digest
    score_outcome(run, workers=2)
    assert shards.open_dataset(run.signal("right")).content_digest == digest
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_the_same_signal_made_twice_has_the_same_bytes(make_run) -> None:
    digests = set()
    for name in ("one", "other"):
        run = make_run(name)
        score_outcome(run)
        digests.add(shards.open_dataset(run.signal("right")).content_digest)
    assert len(digests) == 1


def test_other_options_in_the_same_folder_are_refused_and_named(run) -> None:
    score_outcome(run)
    with pytest.raises(FingerprintMismatchError, match=r"options\.verifier_options\.pattern"):
        score_outcome(run, verifier_options={"pattern": "x"})


def test_changed_code_of_ones_own_is_another_fingerprint(run, checker: Path) -> None:
    signal = build_signal("execution", {"checker": "score_checker:check", "separator": "\n"})
    arguments = {"rollouts": run.rollouts, "prompts": run.prompts, "tokenizer": run.model, "out": run.signal("steps")}
    score(signal=signal, **arguments)
    checker.write_text(CHECKER + "# changed\n")
    with pytest.raises(FingerprintMismatchError, match=r"options\.code\.score_checker:check"):
        score(signal=signal, **arguments)


def test_incomplete_rollouts_are_refused(run) -> None:
    next(Path(run.rollouts).glob("_manifest-*")).unlink()
    with pytest.raises(IncompleteDatasetError, match="rollouts"):
        score_outcome(run)


def test_a_dataset_of_another_stage_is_refused(run) -> None:
    with pytest.raises(WrongInputError, match="is a dataset of stage prompts; rollouts are made by stage generate"):
        score(signal=build_signal("outcome", OUTCOME), rollouts=run.prompts, out=run.signal("right"))
    with pytest.raises(WrongInputError, match="given as signal 'teacher', is a dataset of stage generate"):
        score(
            signal=build_signal("opd", {"teacher": "teacher"}),
            rollouts=run.rollouts,
            signals={"teacher": run.rollouts},
            out=run.signal("opd"),
        )


def test_a_signal_of_other_rollouts_is_refused(make_run: Callable) -> None:
    one, other = make_run("one"), make_run("other", answer="6")
    score_teacher(other)
    with pytest.raises(StaleInputError, match=r"signal 'teacher' .* was made from rollouts of content digest"):
        score(
            signal=build_signal("opd", {"teacher": "teacher"}),
            rollouts=one.rollouts,
            signals={"teacher": other.signal("teacher")},
            out=one.signal("opd"),
        )


def test_a_worker_refuses_rollouts_that_were_made_anew_since_the_job_began(make_run: Callable) -> None:
    one, other = make_run("one"), make_run("other", answer="6")
    signal = build_signal("outcome", OUTCOME)
    score(signal=signal, rollouts=one.rollouts, out=one.signal("right"))
    spec = shards.open_dataset(one.signal("right")).spec
    ScoreWork(signal=signal, spec=spec, rollouts=one.rollouts, inputs={}, tokenizer=None).setup()
    with pytest.raises(StaleInputError, match="was made anew"):
        ScoreWork(signal=signal, spec=spec, rollouts=other.rollouts, inputs={}, tokenizer=None).setup()


def test_prompts_of_other_rollouts_are_refused(make_run: Callable, checker) -> None:
    one, other = make_run("one"), make_run("other", answer="6")
    with pytest.raises(StaleInputError, match="was made from prompts of content digest"):
        score(
            signal=build_signal("execution", {"checker": "score_checker:check"}),
            rollouts=one.rollouts,
            prompts=other.prompts,
            tokenizer=one.model,
            out=one.signal("steps"),
        )


def test_an_input_that_is_not_given_is_named(run, checker) -> None:
    with pytest.raises(SignalInputError, match="signal opd reads 'teacher', which is not given; there is: prompts"):
        score(
            signal=build_signal("opd", {"teacher": "teacher"}),
            rollouts=run.rollouts,
            prompts=run.prompts,
            out=run.signal("opd"),
        )


def test_steps_need_the_tokenizer_of_the_rollouts(run, checker, tiny_model_factory) -> None:
    signal = build_signal("execution", {"checker": "score_checker:check"})
    arguments = {"rollouts": run.rollouts, "prompts": run.prompts, "out": run.signal("steps")}
    with pytest.raises(SignalInputError, match="give the policy's folder as tokenizer"):
        score(signal=signal, **arguments)
    with pytest.raises(SignalInputError, match="has another tokenizer"):
        score(signal=signal, tokenizer=tiny_model_factory(seed=3, characters="abc"), **arguments)


def test_opd_of_tempered_rollouts_is_refused_before_anything_runs(make_run: Callable) -> None:
    tempered = make_run(sampling={"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "group_size": 2})
    score_teacher(tempered)
    with pytest.raises(SignalInputError, match="temperature"):
        score(
            signal=build_signal("opd", {"teacher": "teacher"}),
            rollouts=tempered.rollouts,
            signals={"teacher": tempered.signal("teacher")},
            out=tempered.signal("opd"),
        )
    assert not Path(tempered.signal("opd")).exists()


class Short(SignalBase):
    """Loses a row, or a column."""

    kind = "outcome"

    def __init__(self, change: Callable[[pa.Table], pa.Table]) -> None:
        self.change = change

    def score(self, rollouts, inputs):
        rows = [Row(values={"outcome_reward": 1.0, "verify_status": "ok"})] * len(rollouts)
        return self.change(sidecar("outcome", rollouts, rows))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda table: table.slice(1), AlignmentError, "4 rows for 5 rollouts"),
        (lambda table: table.take(list(range(5))[::-1]), AlignmentError, "not the rollouts' in their order"),
        (lambda table: table.drop_columns(["verify_status"]), SignalResultError, "gave no column 'verify_status'"),
    ],
)
def test_a_signal_that_is_not_row_for_row_is_refused(run, change, error, message: str) -> None:
    rollouts = shards.open_dataset(run.rollouts).read_part(0)
    with pytest.raises(error, match=message):
        score_part(Short(change), rollouts, {}, where="part 0")


def test_inputs_that_are_not_row_for_row_are_refused(run) -> None:
    rollouts = shards.open_dataset(run.rollouts).read_part(0)
    rows = [Row(values={"logprobs": [0.0] * len(ids)}) for ids in rollouts["token_ids"].to_pylist()]
    teacher = sidecar("logprobs", rollouts, rows)
    signal = build_signal("opd", {"teacher": "t"})
    assert score_part(signal, rollouts, {"t": teacher}).num_rows == 5
    with pytest.raises(AlignmentError, match=r"signal 't', part 0: the rows are not the rollouts'.*p0/0, p0/1, p1/0"):
        score_part(signal, rollouts, {"t": teacher.take([1, 0, 3, 2, 4])}, where="part 0")
