"""prm-check --labels: its figures against scikit-learn's and ProcessBench's own, and advantages worked by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_ops import ShapingConfig
from pass_ops.errors import OptionError
from pipelines.cli import main
from pipelines.inspect.prm_check.effect import StepTable, effect
from pipelines.inspect.prm_check.figures import best_first_errors, calibration, error_cases, first_errors
from pipelines.inspect.prm_check.labels import LabelRejectsError, LabelReport, check_labels, shaping
from pipelines.inspect.prm_check.labels_text import label_findings
from pipelines.inspect.prm_check.scores import LabelScoresError, stored_scores
from pipelines.labels import label_format
from tests.pipelines.labels.samples import PROCESSBENCH, completion, prm800k, rated

REFERENCE = Path(__file__).with_name("reference")
SKLEARN = json.loads((REFERENCE / "sklearn.json").read_text())
BENCH = json.loads((REFERENCE / "processbench.json").read_text())


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def checked(folder: Path, cases: list[dict[str, Any]], **options: Any) -> LabelReport:
    """The report on cases of ProcessBench's form, by their scores from a file."""
    rows = [
        PROCESSBENCH
        | {"id": case["id"], "problem": f"Problem {case['group']}", "label": case["label"]}
        | {"steps": [f"{at}" for at in range(len(case["scores"]))]}
        for case in cases
    ]
    scores = write(folder / "scores.jsonl", [{"key": case["id"], "scores": case["scores"]} for case in cases])
    labels = write(folder / "labels.jsonl", rows)
    return check_labels(label_format("processbench"), labels, scores=stored_scores(scores), **options)


@pytest.mark.parametrize("split", SKLEARN)
def test_auc_and_calibration_are_scikit_learns(tmp_path: Path, split: str) -> None:
    theirs = SKLEARN[split]
    ours = checked(tmp_path, theirs["cases"])
    assert ours.auc == pytest.approx(theirs["auc"], abs=1e-12)
    assert ours.auc_in_problem == pytest.approx(theirs["auc_in_problem"], abs=1e-12)
    assert ours.calibration is not None
    assert ours.calibration.brier == pytest.approx(theirs["brier"], abs=1e-12)
    bins = ours.calibration.bins
    assert [one.right for one in bins] == pytest.approx(theirs["share_right"], abs=1e-12)
    assert [one.score for one in bins] == pytest.approx(theirs["mean_score"], abs=1e-12)
    gaps = [one.steps * abs(a - b) for one, a, b in zip(bins, theirs["share_right"], theirs["mean_score"], strict=True)]
    assert ours.calibration.error == pytest.approx(sum(gaps) / (ours.right + ours.wrong))


@pytest.mark.parametrize("split", BENCH)
def test_first_errors_are_what_processbench_prints(tmp_path: Path, split: str) -> None:
    theirs = BENCH[split]
    found = checked(tmp_path, theirs["cases"]).first_error
    assert found.found is not None
    assert found.passed is not None
    assert found.f1 is not None
    error, correct, f1 = (100 * value for value in (found.found, found.passed, found.f1))
    assert theirs["printed"] == f"error acc: {error:.1f}, correct acc: {correct:.1f}, f1: {f1:.1f}"
    labels = {case["id"]: case["label"] for case in theirs["cases"]}
    matched = {name for name, prediction in theirs["predictions"].items() if prediction == labels[name]}
    erroneous = {name for name, label in labels.items() if label >= 0}
    assert (found.erroneous, found.correct) == (len(erroneous), len(labels) - len(erroneous))
    assert found.found == pytest.approx(len(matched & erroneous) / len(erroneous))
    assert found.passed == pytest.approx(len(matched - erroneous) / found.correct)


def slow_f1(cases: list[dict[str, Any]], threshold: float) -> float:
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for case in cases:
        below = [at for at, score in enumerate(case["scores"]) if score < threshold]
        hits[case["label"] >= 0].append((below[0] if below else -1) == case["label"])
    error, correct = (sum(values) / len(values) for values in hits.values())
    return 2 * error * correct / (error + correct) if error + correct else 0.0


@pytest.mark.parametrize("split", BENCH)
def test_the_best_threshold_is_the_best_of_all(tmp_path: Path, split: str) -> None:
    cases = BENCH[split]["cases"]
    best = checked(tmp_path, cases).best_first_error
    assert best is not None
    tried = [slow_f1(cases, threshold) for threshold in np.arange(-0.005, 1.02, 0.005)]
    assert best.f1 == pytest.approx(max(tried))
    assert slow_f1(cases, best.threshold) == pytest.approx(best.f1)


@pytest.mark.parametrize("seed", range(5))
def test_first_errors_by_arrays_are_those_by_loops(seed: int) -> None:
    rng = random.Random(seed)
    cases = [
        {"scores": (scores := [rng.randrange(5) / 4 for _ in range(rng.randint(1, 5))]),
         "label": rng.choice([-1, rng.randrange(len(scores))])}
        for _ in range(30)
    ]  # fmt: skip
    sizes = np.array([len(case["scores"]) for case in cases])
    arrays = error_cases(
        np.concatenate([case["scores"] for case in cases]), np.cumsum(sizes) - sizes,
        np.array([case["label"] for case in cases]),
    )  # fmt: skip
    for threshold in (-1.0, 0.0, 0.2, 0.25, 0.5, 1.0, 1.1):
        assert first_errors(arrays, threshold).f1 == pytest.approx(slow_f1(cases, threshold))
    best = best_first_errors(arrays)
    assert best is not None
    assert best.f1 == pytest.approx(max(slow_f1(cases, threshold / 8) for threshold in range(-1, 10)))


def test_solutions_of_one_kind_only_have_no_f1(tmp_path: Path) -> None:
    found = checked(tmp_path, [{"id": "a", "group": 0, "label": -1, "scores": [0.7, 0.2]}])
    assert (found.first_error.passed, found.first_error.found, found.first_error.f1) == (0.0, None, None)
    assert found.best_first_error is None
    assert found.auc is None


def test_calibration_needs_probabilities() -> None:
    right = np.array([True, False])
    assert calibration(np.array([0.2, 1.5]), right) is None
    assert calibration(np.zeros(0), np.zeros(0, bool)) is None
    found = calibration(np.array([1.0, 0.0]), right)
    assert found is not None
    assert (found.error, found.brier) == (0.0, 0.0)
    assert [(one.low, one.high, one.steps) for one in found.bins] == [(0.0, 0.1, 1), (0.9, 1.0, 1)]


def table(**columns: Any) -> StepTable:
    """Two solutions of problem 7, steps of two tokens each: right, wrong and right, wrong, not labelled."""
    values: dict[str, Any] = {
        "score_S": np.array([1.0, 0.0, 1.0, 0.0, 1.0]),
        "label_S": np.array([1, 0, 1, 0, -1], np.int8),
        "counted_S": np.ones(5, bool),
        "end_S": np.array([2, 4, 2, 4, 6], np.int32),
        "steps_N": np.array([2, 3]),
        "first_error_N": np.array([1, 1]),
        "group_N": np.array([7, 7]),
        "answer_N": np.array([0.0, np.nan], np.float32),
        "placed_N": np.ones(2, bool),
    }
    return StepTable(**(values | columns))


def test_advantages_worked_by_hand() -> None:
    """Mean 0.6, std (ddof 1) sqrt(0.3): 1 becomes 0.4/0.5477 = 0.7303, 0 becomes -1.0954. Return-to-go, k = 0:

    -0.3651, -1.0954 and 0.3651, -0.3651, 0.7303: one of two right steps is punished, for what comes after it.
    """
    found = effect(table(), shaping({"k": 0.0}))
    assert found.steps == 4
    assert found.right == pytest.approx(0.0, abs=1e-5)
    assert found.wrong == found.first_wrong == pytest.approx((-1.0954 - 0.3651) / 2, abs=1e-4)
    assert (found.agreement, found.right_punished) == (0.75, 0.5)
    assert (found.wrong_rewarded, found.first_wrong_rewarded) == (0.0, 0.0)


def test_divide_length_is_that_of_the_shape_stage() -> None:
    """The same with k = 1: each return is divided by the number of chunks left."""
    found = effect(table(), shaping({"k": 1.0}))
    assert found.right == pytest.approx((-0.3651 / 2 + 0.3651 / 3) / 2, abs=1e-4)
    assert found.wrong == pytest.approx((-1.0954 - 0.3651 / 2) / 2, abs=1e-4)


def test_a_step_that_an_earlier_solution_has_too_is_counted_once() -> None:
    found = effect(table(counted_S=np.array([True, True, False, True, True])), shaping({"k": 0.0}))
    assert found.steps == 3
    assert found.right == pytest.approx(-0.3651, abs=1e-4)


def test_solutions_without_a_place_are_left_out() -> None:
    found = effect(table(placed_N=np.array([True, False])), shaping({"k": 0.0}))
    assert found.steps == 2
    assert found.wrong == pytest.approx(-(0.5**0.5), abs=1e-4)
    nothing = effect(table(placed_N=np.zeros(2, bool)), shaping({}))
    assert (nothing.steps, nothing.agreement) == (0, None)


def test_with_a_weight_the_answers_count_and_unknown_ones_leave_their_solution_out() -> None:
    found = effect(table(), shaping({"weights": {"outcome": 1.0}}))
    assert found.steps == 2


def test_a_groups_solutions_need_not_be_neighbours() -> None:
    """Solutions of two problems, in turn: the same as each problem alone."""
    one = table()
    parts = (one.take(np.array([0])), one, one.take(np.array([1])))
    names = StepTable.__dataclass_fields__
    mixed = StepTable(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    mixed = StepTable(**(vars(mixed) | {"group_N": np.array([7, 1, 1, 7])}))
    config = shaping({"k": 0.0})
    alone, together = effect(one, config), effect(mixed, config)
    assert together.steps == 2 * alone.steps
    for name in ("agreement", "right_punished", "wrong"):
        assert getattr(together, name) == pytest.approx(getattr(alone, name)), name


def test_labels_in_place_of_scores_are_1_0_and_one_half() -> None:
    by_labels = table(score_S=np.full(5, 0.3)).scored_by_labels()
    assert by_labels.score_S.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]


def test_shaping_options_are_those_of_a_configuration() -> None:
    assert shaping({}) == ShapingConfig(weights=shaping({}).weights)
    assert (shaping({}).weights.process, shaping({}).weights.outcome) == (1.0, 0.0)
    assert shaping({"weights": {"process": 2.0}}).weights.format == 0.0
    with pytest.raises((OptionError, ValueError), match="kk"):
        shaping({"kk": 1})


def test_a_tree_of_alternatives_counts_each_label_once(tmp_path: Path) -> None:
    """Labels of the chosen steps stand in each alternative's path; the paths' scores of them are their own."""
    row = prm800k(rated(completion("a", 1)), rated(completion("b", -1), completion("c", 1), chosen=None))
    scores = [{"key": "1/0", "scores": [0.9, 0.4]}, {"key": "1/1", "scores": [0.1, 0.6]}]
    found = check_labels(
        label_format("prm800k"), write(tmp_path / "labels.jsonl", [row]),
        scores=stored_scores(write(tmp_path / "scores.jsonl", scores)),
    )  # fmt: skip
    assert (found.solutions, found.right, found.wrong, found.problems, found.alone) == (2, 2, 1, 1, 0)
    assert found.auc == 1.0
    assert (found.first_error.erroneous, found.first_error.found) == (1, 1.0)


CASES = [{"id": f"row-{number}", "group": 0, "label": 0, "scores": [0.1, 0.9]} for number in range(4)]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([{"key": "row-1", "scores": [1, 1]}], "holds the scores of 'row-1', and the labels go on with 'row-0'"),
        ([{"key": "row-0", "scores": [1, 1, 1]}], "has 2 steps and 3 scores"),
        ([{"key": "row-0", "scores": [1, "0.5"]}], "scores is no list of numbers"),
        ([{"key": "row-0", "scores": [1, True]}], "scores is no list of numbers"),
        ([{"key": "row-0", "scores": 0.5}], "scores is no list of numbers"),
        ([{"key": "row-0", "scores": [1, 10**400]}], "no finite number"),
        ([{"key": "row-0", "scores": [1, 1]}], "ends before the scores of 'row-1'"),
        (["row-0"], "holds a str, not an object"),
    ],
)
def test_scores_of_something_else_are_refused(tmp_path: Path, scores: list, message: str) -> None:
    rows = [PROCESSBENCH | {"id": case["id"], "steps": ["a", "b"], "label": 0} for case in CASES]
    labels = write(tmp_path / "labels.jsonl", rows)
    stored = stored_scores(write(tmp_path / "scores.jsonl", scores))
    with pytest.raises(LabelScoresError, match=message):
        check_labels(label_format("processbench"), labels, scores=stored)


def test_solutions_without_stored_scores_are_counted(tmp_path: Path) -> None:
    cases = [*CASES, {"id": "none", "group": 1, "label": 0, "scores": [0.5]}]
    checked(tmp_path, cases)
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    (tmp_path / "scores.jsonl").write_text("\n".join([*lines[:4], json.dumps({"key": "none", "scores": None})]))
    stored = stored_scores(str(tmp_path / "scores.jsonl"))
    found = check_labels(label_format("processbench"), str(tmp_path / "labels.jsonl"), scores=stored)
    assert (found.solutions, found.unscored) == (4, {"not_stored": 1})


def test_a_few_bad_rows_are_told_and_many_refused(tmp_path: Path) -> None:
    checked(tmp_path, CASES)
    labels, scores = tmp_path / "labels.jsonl", str(tmp_path / "scores.jsonl")
    labels.write_text("{}\n" + labels.read_text())
    form = label_format("processbench")
    with pytest.raises(LabelRejectsError, match=r"1 rows are not what format processbench says.*labels.jsonl:1"):
        check_labels(form, str(labels), scores=stored_scores(scores))
    found = check_labels(form, str(labels), scores=stored_scores(scores), max_reject_rate=0.2)
    assert (found.solutions, found.rejected) == (4, {"fields": 1})
    assert found.rejects[0].startswith("labels.jsonl:1: steps is missing")


def test_a_limit_takes_the_first_solutions(tmp_path: Path) -> None:
    assert checked(tmp_path, CASES, limit=3).solutions == 3


def test_a_signal_that_misleads_is_said_to(tmp_path: Path) -> None:
    """The wrong steps score high, the right ones low, in every problem; and all promise far too much or too little."""
    cases = [{"id": f"row-{n}", "group": n // 2, "label": 1, "scores": [0.6, 1.0]} for n in range(20)]
    said = " ".join(label_findings(checked(tmp_path, cases)))
    assert "hardly tells right from wrong" in said
    assert "0.30 too high on average" in said
    assert not label_findings(checked(tmp_path, [case | {"scores": [1.0, 0.0]} for case in cases]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "processbench:x.json"], "--labels goes with --model or --scores"),
        (["RUN", "--labels", "processbench:x.json", "--scores", "y"], "without RUN"),
        (["--labels", "x.json", "--scores", "y"], "write it as FORMAT:FILE"),
        (["--labels", "bench:x.json", "--scores", "y"], "there is no format of labels 'bench'"),
        (["--labels", "trl:absent.jsonl", "--scores", "absent.jsonl"], "does not exist"),
        (["RUN", "--signal", "prm"], "nothing says what to check"),
        (["RUN", "--signal", "prm", "--truth", "mc", "--limit", "3"], "--limit goes with --labels only"),
        (["--labels", "trl:x.jsonl", "--scores", "y", "--padding", "x"], "--padding goes with RUN only"),
        (["--labels", "trl:x.jsonl", "--scores", "y", "--set", "tag=x"], "--set goes with --model only"),
        (["--labels", "trl:x.jsonl", "--scores", "s3://key:secret@host/y.jsonl"], "holds"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: list[str], message: str, capsys) -> None:
    assert main(["prm-check", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret@" not in error
