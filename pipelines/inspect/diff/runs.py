"""Two runs side by side, from their lineages, manifests and stored results: nothing is computed again."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset, Store, open_dataset
from pipelines.inspect.diff.differences import Difference, difference
from pipelines.runs.evaluate import EvalResult, EvaluationError, pass_at_k, read_results
from pipelines.runs.folders import round_folder
from pipelines.runs.lineage import read_rounds
from pipelines.runs.verify import is_run

_EVALUATION = re.compile(r"eval(-\d+)?")
_SAID = ("prompt", "messages", "answer")
#: benchmark -> its folder and result
Evaluated = Mapping[str, tuple[str, EvalResult]]


class NotComparableError(PassError, FileNotFoundError):
    """A folder to compare is no run."""


@dataclass(frozen=True, kw_only=True)
class OptionChange:
    """An option of the rounds named, as either run has it; None where a run does not know it."""

    rounds: tuple[int, ...]
    option: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a dataset holds; digest None where its round has not made it, counts None where it is not there whole."""

    digest: str | None
    rows: int | None = None
    tokens: int | None = None
    rejected: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataChange:
    """One dataset of a round (or its starting policy, which has a digest alone). same: equal digests."""

    round: int
    dataset: str
    same: bool
    a: Counts
    b: Counts


@dataclass(frozen=True, kw_only=True)
class ResultChange:
    """A number of a round, None for the start; what: pass@K of a benchmark (shares), reward, length (tokens)."""

    round: int | None
    what: str
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """What sets run B apart from run A. rounds: those that both have."""

    a: str
    b: str
    rounds: tuple[int, ...]
    rounds_of_a: int
    rounds_of_b: int
    options: tuple[OptionChange, ...]
    data: tuple[DataChange, ...]
    results: tuple[ResultChange, ...]


def diff_runs(a: str, b: str) -> RunDiff:
    """Compare two RUN folders round by round, or two evaluations (RUN/start/eval, RUN/round-000/eval).

    Raises NotComparableError, LineageError.
    """
    if not any(map(is_run, (a, b))) and all(map(_is_evaluation, (a, b))):
        return RunDiff(
            a=a, b=b, rounds=(), rounds_of_a=0, rounds_of_b=0, options=(), data=(),
            results=tuple(_passes(None, _benchmarks(a), _benchmarks(b))),
        )  # fmt: skip
    entries = [_rounds(url) for url in (a, b)]
    shared = tuple(sorted(entries[0].keys() & entries[1].keys()))
    return RunDiff(
        a=a,
        b=b,
        rounds=shared,
        rounds_of_a=len(entries[0]),
        rounds_of_b=len(entries[1]),
        options=tuple(_options({index: (entries[0][index], entries[1][index]) for index in shared})),
        data=tuple(one for index in shared for one in _data(a, b, index, entries[0][index], entries[1][index])),
        results=tuple(one for index in (None, *shared) for one in _results(a, b, index)),
    )


def _rounds(url: str) -> dict[int, dict[str, Any]]:
    if not is_run(url):
        raise NotComparableError(
            f"{url} is no RUN folder, so there is nothing to compare; check the path. Evaluations are compared with "
            "each other only: give two folders that hold one"
        )
    return read_rounds(url)


def _options(rounds: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Iterator[OptionChange]:
    """Every option that differs in a round, with all the rounds in which it differs in that way."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, entries in rounds.items():
        of_a, of_b = (dict(_flat(entry.get("config", {}))) for entry in entries)
        for option in sorted(of_a.keys() | of_b.keys()):
            if of_a.get(option) != of_b.get(option):
                found.setdefault((option, json.dumps([of_a.get(option), of_b.get(option)])), []).append(index)
    for (option, values), indices in found.items():
        of_a, of_b = json.loads(values)
        yield OptionChange(rounds=tuple(indices), option=option, a=of_a, b=of_b)


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a configuration.

    >>> list(_flat({"train": {"lr": 0.1}}))
    [('train.lr', 0.1)]
    """
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _data(a: str, b: str, index: int, of_a: Mapping[str, Any], of_b: Mapping[str, Any]) -> Iterator[DataChange]:
    policies = [Counts(digest=entry.get("policy_digest")) for entry in (of_a, of_b)]
    yield _change(index, "starting policy", *policies)
    made = [entry.get("datasets", {}) for entry in (of_a, of_b)]
    for name in dict.fromkeys([*made[0], *made[1]]):
        yield _change(index, name, *(_counts(url, index, name, of) for url, of in zip((a, b), made, strict=True)))


def _change(index: int, name: str, a: Counts, b: Counts) -> DataChange:
    return DataChange(round=index, dataset=name, same=a.digest is not None and a.digest == b.digest, a=a, b=b)


def _counts(url: str, index: int, name: str, digests: Mapping[str, str]) -> Counts:
    dataset = _opened(round_folder(url, index, name)) if name in digests else None
    if dataset is None:
        return Counts(digest=digests.get(name))
    totals = dataset.manifest.totals
    return Counts(
        digest=digests[name], rows=totals["rows"], tokens=totals["tokens"], rejected=totals["rejected_rollouts"]
    )


def _opened(url: str) -> CompleteDataset | None:
    try:
        return open_dataset(url)
    except PassError:  # not there, or not whole
        return None


def _results(a: str, b: str, index: int | None) -> Iterator[ResultChange]:
    folders = [posixpath.join(url, "start") if index is None else round_folder(url, index) for url in (a, b)]
    yield from _passes(index, *(_evaluations(folder) for folder in folders))
    if index is not None:
        same = _same_prompts(*(f"{folder}/prompts" for folder in folders))
        measured = [_rollouts(f"{folder}/shaped") for folder in folders]
        for what in ("reward", "length"):
            yield from _told(index, what, measured[0][what], measured[1][what], same)


def _passes(index: int | None, of_a: Evaluated, of_b: Evaluated) -> Iterator[ResultChange]:
    """What both were evaluated on: pass@k, and maj@k and mean reward where both have them."""
    for name in [name for name in of_a if name in of_b]:
        (folder_a, result_a), (folder_b, result_b) = of_a[name], of_b[name]
        same = _same_prompts(f"{folder_a}/prompts", f"{folder_b}/prompts")
        for k in sorted(result_a.pass_at.keys() & result_b.pass_at.keys()):
            yield from _told(index, f"pass@{k} {name}", _passed(result_a, k), _passed(result_b, k), same)
        if result_a.majority_P and result_b.majority_P and result_a.samples == result_b.samples > 1:
            voted_a, voted_b = (_named(one, one.majority_P) for one in (result_a, result_b))
            yield from _told(index, f"maj@{result_a.samples} {name}", voted_a, voted_b, same)
        if result_a.graded and result_b.graded:
            rewards_a, rewards_b = (_named(one, one.reward_P) for one in (result_a, result_b))
            yield from _told(index, f"reward {name}", rewards_a, rewards_b, same)


def _told(
    index: int | None, what: str, a: Mapping[str, float], b: Mapping[str, float], same: set[str]
) -> Iterator[ResultChange]:
    if (found := difference(a, b, same=same)) is not None:
        yield ResultChange(round=index, what=what, difference=found)


def _evaluations(folder: str) -> dict[str, tuple[str, EvalResult]]:
    """Benchmark -> its folder and result: of all prompts where that was made, else of the first N, the largest N."""
    found: dict[str, tuple[str, EvalResult]] = {}
    made = (name for name in Store(folder).folders() if _EVALUATION.fullmatch(name))
    for evaluation in sorted(made, key=lambda name: float(name.partition("-")[2] or "inf"), reverse=True):
        for benchmark, result in _benchmarks(posixpath.join(folder, evaluation)).items():
            found.setdefault(benchmark, result)
    return found


def _benchmarks(evaluation: str) -> dict[str, tuple[str, EvalResult]]:
    """Benchmark -> its folder and result, of one evaluation."""
    found = {}
    for benchmark in sorted(Store(evaluation).folders()):
        place = posixpath.join(evaluation, benchmark)
        try:
            found[benchmark] = (place, read_results(place))
        except EvaluationError:  # begun, and without a result yet
            continue
    return found


def _is_evaluation(folder: str) -> bool:
    return bool(_benchmarks(folder))


def _passed(result: EvalResult, k: int) -> dict[str, float]:
    """Unbiased pass@k of each prompt."""
    values_P = pass_at_k(np.array(result.correct_P), result.samples, k)
    return _named(result, values_P.tolist())


def _named(result: EvalResult, values: Sequence[float]) -> dict[str, float]:
    return dict(zip(result.prompt_ids, values, strict=True))


def _rollouts(shaped: str) -> dict[str, dict[str, float]]:
    """Mean outcome reward and mean length in tokens of each group of a shaped dataset; empty without one."""
    sums: dict[str, dict[str, list[float]]] = {"reward": {}, "length": {}}
    dataset = _opened(shaped)
    for part in range(0 if dataset is None else len(dataset.parts)):
        assert dataset is not None
        with dataset.open_part(part) as file:
            names = ("group_id", "loss_mask", "outcome_reward")
            table = file.read(columns=[name for name in names if name in file.schema_arrow.names])
        groups = table["group_id"].to_pylist()
        values = {"length": pc.list_value_length(table["loss_mask"]).to_pylist()}
        if "outcome_reward" in table.column_names:
            values["reward"] = table["outcome_reward"].to_pylist()
        for what, column in values.items():
            for group, value in zip(groups, column, strict=True):
                if value is not None:
                    sums[what].setdefault(group, []).append(float(value))
    return {what: {group: float(np.mean(of)) for group, of in found.items()} for what, found in sums.items()}


def _same_prompts(a: str, b: str) -> set[str]:
    """Ids of the prompts that say and ask the same in both datasets; empty where one is not there."""
    of_a, of_b = (_prompts(url) for url in (a, b))
    return {name for name, content in of_a.items() if of_b.get(name) == content}


def _prompts(url: str) -> dict[str, bytes]:
    dataset = _opened(url)
    found = {}
    for part in range(0 if dataset is None else len(dataset.parts)):
        assert dataset is not None
        for row in dataset.read_part(part, columns=["prompt_id", *_SAID]).to_pylist():
            content = json.dumps([row[name] for name in _SAID]).encode()
            found[row["prompt_id"]] = hashlib.sha256(content).digest()
    return found
