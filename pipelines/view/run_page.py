"""The page of a RUN: what each round was evaluated at, what its rollouts were like, every training step.

Axes: rounds (S), bins of a histogram (B), tokens of a part (N).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops import token_advantages
from pass_ops.errors import PassError
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards import CompleteDataset, Store
from pipelines.inspect.stored import open_shaped
from pipelines.inspect.views.training import NoTrainingError, Training, read_trainings
from pipelines.runs.evaluate import EvaluationError, read_results
from pipelines.runs.folders import round_folder
from pipelines.runs.lineage import FILE, read_lineage
from pipelines.runs.summary import summarize_shaped

BINS = 40
STEP_KEYS = ("loss", "kl", "behavior_kl", "entropy", "grad_norm", "advantage_mean", "clip_low", "clip_high", "rejected")
_PASS_1 = "pass@1"


class NotARunError(PassError, ValueError):
    """A folder that is no RUN was given as one."""


def run_of(dataset: CompleteDataset) -> str | None:
    """The RUN that a shaped dataset lies in, RUN/round-NNN/NAME; None where it lies elsewhere."""
    run = "/".join(dataset.url.rstrip("/").split("/")[:-2])
    return run if run and Store(run).exists(FILE) else None


def run_page(run: str, *, name: str = "shaped") -> dict[str, Any]:
    """The head's RUN. name: the shaped datasets' folder in each round.

    Raises NotARunError, LineageError, and what reading a damaged dataset raises.
    """
    if not Store(run).exists(FILE):
        raise NotARunError(f"--run: {run} holds no {FILE}, so it is no RUN; give the folder that --out named")
    lineage = read_lineage(run)
    trainings = _trainings(run)
    shaped = {entry["round"]: _shaped(run, entry["round"], name) for entry in lineage["rounds"]}
    found = {number: dataset for number, dataset in shaped.items() if dataset is not None}
    start = lineage.get("start")
    rounds = [_round(run, entry, found.get(entry["round"])) for entry in lineage["rounds"]]
    if start is not None:
        rounds.insert(0, {"round": None, "name": "start", "pass_at_1": _pass_at_1(f"{run}/start", start)})
    return {
        "url": run,
        "rounds": rounds,
        "steps": _steps(trainings),
        "histograms": list(_histograms(found)),
        "note": "Reward and length are means over the round's rollouts, entropy and KL (k3, from the sampler) over its "
        "training steps; histograms are of all rows of the round.",
    }


def _round(run: str, entry: Mapping[str, Any], dataset: CompleteDataset | None) -> dict[str, Any]:
    number = entry["round"]
    summary = None if dataset is None or not dataset.parts else summarize_shaped(dataset)
    means = entry.get("metrics", {}).get("train", {})
    return {
        "round": number,
        "name": f"round {number}",
        "pass_at_1": _pass_at_1(round_folder(run, number), entry),
        "reward": summary.outcome_rate if summary else None,
        "mean_length": summary.mean_length if summary else None,
        **{key: means.get(key) for key in ("entropy", "kl", "behavior_kl")},
    }


def _pass_at_1(folder: str, entry: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """pass@1 by benchmark, with the standard error where its results lie on this machine."""
    found: dict[str, dict[str, float | None]] = {}
    for benchmark, estimates in entry.get("metrics", {}).get("eval", {}).items():
        if _PASS_1 in estimates:
            error = _standard_error(folder, benchmark, estimates[_PASS_1])
            found[benchmark] = {"value": estimates[_PASS_1], "standard_error": error}
    return found


def _standard_error(folder: str, benchmark: str, value: float) -> float | None:
    """That of the evaluation which found this value: there may be one of all prompts, and one of the first N."""
    for results in sorted(Path(folder).glob(f"eval*/{benchmark}")):
        try:
            estimate = read_results(str(results)).pass_at.get(1)
        except EvaluationError:
            continue
        if estimate is not None and estimate.value == value:
            return estimate.standard_error
    return None


def _shaped(run: str, number: int, name: str) -> CompleteDataset | None:
    try:
        return open_shaped(round_folder(run, number, name))
    except PassError:
        return None  # a round under way has none yet; `passrl status` says why


def _trainings(run: str) -> dict[int, Training]:
    try:
        return {int(training.name.split("-")[1]): training for training in read_trainings(run)}
    except NoTrainingError:
        return {}


def _steps(trainings: Mapping[int, Training]) -> dict[str, list[Any]]:
    """Columns of the training metrics over all rounds' steps; those that no step has are left out."""
    lines = [(number, line) for number, training in sorted(trainings.items()) for line in training.steps]
    found: dict[str, list[Any]] = {
        "update": [line["update"] for _, line in lines],
        "round": [number for number, _ in lines],
    }
    for key in STEP_KEYS:
        values = [line.get(key) for _, line in lines]
        if any(value is not None for value in values):
            found[key] = values
    return found


def _histograms(shaped: Mapping[int, CompleteDataset]) -> Iterator[dict[str, Any]]:
    """Of lengths and of advantages, a histogram a round, over the same bins."""
    for name, unit in (("length", "tokens"), ("advantage", "")):
        ranges = [(values.min(), values.max()) for one in shaped.values() for values in _values(one, name)]
        if not ranges:
            continue
        edges_B1 = _edges(float(min(low for low, _ in ranges)), float(max(high for _, high in ranges)), name)
        for number, dataset in shaped.items():
            counts_B = np.zeros(len(edges_B1) - 1, np.int64)
            for values in _values(dataset, name):
                counts_B += np.histogram(values, edges_B1)[0]
            yield {
                "name": name, "unit": unit, "round": number, "edges": edges_B1.tolist(), "counts": counts_B.tolist(),
            }  # fmt: skip


def _edges(low: float, high: float, name: str) -> NDArray[np.float64]:
    """Bins from low to high: of whole tokens for lengths."""
    if name == "length":
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        return np.arange(low, high + width + 1, width, dtype=np.float64)
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def _values(dataset: CompleteDataset, name: str) -> Iterator[NDArray[Any]]:
    """Lengths of a part's rollouts, or advantages of its tokens that a trainer reads; parts without any left out."""
    for part in range(len(dataset.parts)):
        columns: Sequence[str] = ("loss_mask", "chunk_ends", "chunk_advantages", "trainable")
        table = dataset.read_part(part, columns)
        lengths_R = list_lengths(table["loss_mask"])
        found: NDArray[Any] = lengths_R
        if name == "advantage":
            read_N = list_values(table["loss_mask"]) & np.repeat(table["trainable"].to_numpy(), lengths_R)
            found = list_values(token_advantages(table))[read_N]
        if len(found):
            yield found
