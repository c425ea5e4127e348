"""Files that the real libraries wrote (`make_samples.py`): imported, verified, shaped and exported."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pass_ops import Weights, shards
from pipelines.exports import write as exports
from pipelines.imports.formats import FORMATS
from pipelines.runs.verify import verify
from pipelines.shaped.stage import ShapeOptions, shape_dataset

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Sample:
    """What a file holds. groups: rollouts of each group. reward: the signal to shape. ids, logprobs: of `imported`."""

    form: str
    source: str
    groups: tuple[int, ...]
    reward: str | None
    rewards: tuple[float | None, ...] = ()
    ids: str = "re-encoded"
    logprobs: str = "absent"
    mapping: tuple[str, ...] = ()


ROWS = ("prompt=question", "response=completion", "group=problem_id", "reward.score=score")
CASES = {
    "trl": Sample("trl", "trl", (4, 4), "digits"),
    "verl": Sample("verl", "verl/1.jsonl", (2, 2, 2), "score", (1, 0, 1, 0, 1, 0)),
    "verl_tensors": Sample(
        "verl_tensors", "verl/data.pt", (2, 2, 2), "score", (1, 0, 1, 0, 1, 0), ids="source", logprobs="exact"
    ),
    "verifiers": Sample("verifiers", "verifiers", (2, 2), "reward", (0, 1, 0, 1), ids="source", logprobs="rounded"),
    "lm_eval": Sample("lm_eval", "lm_eval", (1, 1, 1, 3, 3, 3), "exact_match", (0, 1, 1) + (None,) * 9),
    "lighteval": Sample("lighteval", "lighteval", (2, 2, 2), None, ids="source"),
    "inspect_ai": Sample("inspect_ai", "inspect_ai", (2,), "match", (1, 0)),
    "datasets, Parquet": Sample("rows", "datasets/rows.parquet", (2, 2, 2), "score", (0, 0.5) * 3, mapping=ROWS),
    "datasets, JSON lines": Sample("rows", "datasets/rows.jsonl", (2, 2, 2), "score", (0, 0.5) * 3, mapping=ROWS),
}


@pytest.fixture(scope="module")
def model(tiny_model_factory: Callable[..., str]) -> str:
    """A tokenizer that knows every printable character."""
    return tiny_model_factory(seed=1, characters=string.printable)


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_real_library_is_imported_verified_shaped_and_exported(
    name: str, import_run, model: str, tmp_path: Path
) -> None:
    sample = CASES[name]
    run = import_run(sample.form, SAMPLES / sample.source, mapping=sample.mapping, tokenizer=model, temperature=None)
    rollouts = run.rows("rollouts")
    groups = [row["group_id"] for row in rollouts]
    assert tuple(groups.count(group) for group in dict.fromkeys(groups)) == sample.groups
    assert (run.block()["ids"], run.block()["logprobs"]) == (sample.ids, sample.logprobs)
    assert run.rejected("rollouts") == []
    assert verify(run.url) == []
    if sample.reward is None:
        return
    found = [row["outcome_reward"] for row in run.rows("signals", sample.reward)]
    assert not sample.rewards or found == list(sample.rewards)

    shape_dataset(
        rollouts=run.folder("rollouts"),
        signals=run.folder("signals"),
        out=run.folder("shaped"),
        options=ShapeOptions(estimator="grpo_outcome", outcome=sample.reward, weights=Weights(format=0.0)),
    )
    shaped = run.rows("shaped")
    assert [row["rollout_id"] for row in shaped] == [row["rollout_id"] for row in rollouts]
    for group in dict.fromkeys(groups):  # the mean of a group's advantages is 0
        sums = [sum(row["chunk_credits"]) for row in shaped if row["group_id"] == group]
        assert sum(sums) == pytest.approx(0, abs=1e-5)
    assert [finding for finding in verify(run.url) if finding.severity == "error"] == []
    if sample.logprobs != "absent":
        exports.export(exports.export_format("safetensors"), run.folder("shaped"), str(tmp_path / "exported"))
        assert any(file.suffix == ".safetensors" for file in (tmp_path / "exported").iterdir())


def test_lm_evals_three_answers_of_a_document_are_a_group_at_its_temperature(import_run) -> None:
    run = import_run("lm_eval", SAMPLES / "lm_eval")
    assert run.block()["temperature"] == "source"
    assert shards.open_dataset(run.folder("rollouts")).spec.carried["sampling"]["group_size"] == 3


def test_every_sample_is_of_a_format_that_there_is() -> None:
    assert {sample.form for sample in CASES.values()} <= {*FORMATS, "rows"}
    assert {folder.name for folder in SAMPLES.iterdir()} == {sample.source.split("/")[0] for sample in CASES.values()}
