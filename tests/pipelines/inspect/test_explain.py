from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape
from pipelines.cli.parser import main
from pipelines.inspect.explain.explanation import (
    NotExplainableError,
    RolloutNotFoundError,
    check_group,
    explain_rollout,
)
from pipelines.inspect.stored import NotShapedError
from pipelines.shaped.stage import ShapeOptions


@pytest.fixture
def run(store_run, row):
    """Two parts; a/0 right and a/1 wrong in the first, and in the second a rollout whose outcome timed out."""
    return store_run(
        [
            row("a/0", 4, process_scores=[1.0, 0.5], process_ends=[1, 4]),
            row("a/1", 3, process_scores=[0.0], process_ends=[3], outcome_reward=0.0),
        ],
        [row("b/0", 2), row("b/1", 2, outcome_reward=None, verify_status="timeout")],
    )


def test_a_rollout_is_found_in_its_run_and_agrees(run):
    found = explain_rollout(run.url, "a/0")
    assert found.agrees
    assert (found.part, found.row, found.size) == (0, 0, 2)
    assert found.largest_difference < 1e-6
    assert [chunk.advantage.value for chunk in found.arithmetic.chunks] == pytest.approx(found.stored.chunk_advantages)


def test_a_shaped_dataset_may_be_given_itself(run):
    assert explain_rollout(run.shaped.url, "b/0").part == 1


def test_an_untrainable_rollout_is_explained_by_its_signals_status(run):
    found = explain_rollout(run.url, "b/1")
    assert found.agrees
    assert found.arithmetic.reasons == ("outcome_reward could not be computed (null)",)
    assert found.statuses == {"verifier": "timeout"}
    assert found.arithmetic.group == 1


def test_a_rollout_that_is_not_there_names_those_of_its_group(run):
    with pytest.raises(RolloutNotFoundError, match=r"'a/7' is not in .*shaped; the choices are 'a/0', 'a/1'"):
        explain_rollout(run.url, "a/7")


def test_rollouts_that_are_not_shaped_are_refused(run):
    with pytest.raises(NotShapedError, match="stage generate"):
        explain_rollout(run.rollouts, "a/0")


def test_an_estimator_by_import_path_is_refused_by_name(store_run, row):
    weights = Weights(process=0.0, format=0.0)
    run = store_run(
        [row("a/0", 2)], options=ShapeOptions(estimator=f"{__name__}:own", outcome="verifier", weights=weights)
    )
    with pytest.raises(NotExplainableError, match=rf"your own estimator '{__name__}:own'; .* of pass, reward_shaping"):
        explain_rollout(run.url, "a/0")


def test_a_method_of_its_own_file_is_shaped_linted_and_refused_by_name(store_run, row):
    """TEMPO reads the ids that every run stores."""
    weights = Weights(process=0.0, format=0.0)
    run = store_run(
        [row("a/0", 2), row("a/1", 2)], options=ShapeOptions(estimator="tempo", outcome="verifier", weights=weights)
    )
    assert main(["lint", run.shaped.url, "--json"]) in (0, 1)
    with pytest.raises(NotExplainableError, match=r"by estimator 'tempo'; .* of pass, reward_shaping"):
        explain_rollout(run.url, "a/0")


def own(group, config):
    return [[0.0] * len(mask) for mask in group.mask]


def shaped_group(**changes) -> tuple[pa.Table, ShapingConfig]:
    """One group of two, with stored columns replaced by `changes`."""
    config = ShapingConfig(weights=Weights(format=0.0))
    table = pa.table(
        {
            "group_id": ["a", "a"],
            "rollout_id": ["a/0", "a/1"],
            "loss_mask": [[True, True], [True]],
            "process_scores": pa.array([[1.0, 0.0], [0.5]], pa.list_(pa.float32())),
            "process_ends": pa.array([[1, 2], [1]], pa.list_(pa.int32())),
            "outcome_reward": pa.array([1.0, 0.0], pa.float32()),
        }
    )
    shaped = shape(table, config, threads=1)
    for name, values in changes.items():
        place = shaped.schema.get_field_index(name)
        shaped = shaped.set_column(place, name, pa.array(values, shaped.schema.field(name).type))
    return shaped, config


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("chunk_advantages", [[9.0, 9.0], [9.0]], "chunk 1: advantage is 9.0 as stored"),
        ("chunk_credits", [[9.0, 9.0], [9.0]], "chunk 1: credit is 9.0 as stored"),
        ("path_score", [9.0, 9.0], "path score is 9.0 as stored"),
        ("path_score", [None, None], "path score is None as stored"),
        ("chunk_ends", [[2], [1]], r"chunks end at \[2\] as stored and at \[1, 2\]"),
        ("trainable", [False, False], "trainable is False as stored and True"),
    ],
)
def test_stored_values_that_do_not_follow_are_named(name, values, said):
    table, config = shaped_group(**{name: values})
    _, _, disagreements, _ = check_group(table, 0, config)
    assert any(re.search(said, line) for line in disagreements)


def test_other_options_than_the_stored_ones_do_not_agree():
    table, _ = shaped_group()
    assert check_group(table, 0, ShapingConfig(weights=Weights(format=0.0), k=0.0))[2] != ()


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_shows_pools_chunks_and_the_verdict(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["explain", run.url, "a/0"]) == 0
    shown = capsys.readouterr().out
    for text in ("a/0: 4 tokens", "Pooled over the group", "outcome 1 (ok)", "step 2", "path score =", "agree"):
        assert text in shown


def test_the_command_gives_json(run, capsys):
    assert main(["explain", run.url, "b/1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arithmetic"]["trainable"] is False


def test_an_unknown_rollout_is_wrong_input(run, capsys):
    assert main(["explain", run.url, "nobody"]) == 2
    assert "'nobody' is not in" in capsys.readouterr().err


def test_long_rollouts_are_cut_short_unless_all_is_asked_for(store_run, row, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    scores = [float(t) for t in range(60)]
    run = store_run(
        [row("a/0", 60, process_scores=scores), row("a/1", 60, process_scores=[x * x for x in scores])],
        options=ShapeOptions(process="steps", outcome="verifier", format="format", signal="kl"),
    )
    assert main(["explain", run.url, "a/0"]) == 0
    assert "more: --all" in capsys.readouterr().out
    assert main(["explain", run.url, "a/0", "--all"]) == 0
    assert "more: --all" not in capsys.readouterr().out
