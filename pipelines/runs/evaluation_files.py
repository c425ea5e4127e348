"""What an evaluation leaves beside each benchmark's results.json: Parquet to compute with, and a table to read.

    eval/results.parquet   one row a benchmark
    eval/prompts.parquet   one row a benchmark and prompt
    RUN/evaluations.md     the table of `markdown_table`: every policy of the run that was evaluated

They are made again from the results with every evaluation; nothing reads them here.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.shards.store import Store
from pipelines.runs.estimates import Estimate
from pipelines.runs.evaluate import (
    PROMPTS_TABLE,
    RESULTS,
    RESULTS_TABLE,
    EvalResult,
    EvaluationError,
    read_results,
)
from pipelines.runs.folders import round_folder, rounds_among

MARKDOWN = "evaluations.md"
#: after a figure over other prompts than the first one of its column
STAR = "\\*"
Evaluations = Mapping[str, Mapping[str, EvalResult]]


def write_tables(folder: str, results: Sequence[EvalResult]) -> None:
    """Both Parquet files of one policy's results, in the folder of its evaluation."""
    store = Store(folder)
    store.put(RESULTS_TABLE, _parquet(pa.Table.from_pylist([benchmark_row(one) for one in results])))
    store.put(PROMPTS_TABLE, _parquet(pa.Table.from_pylist([row for one in results for row in prompt_rows(one)])))


def write_markdown(url: str, beside: Evaluations) -> str:
    """The table of every policy that the RUN at `url` has evaluated on whole benchmarks, and of other evaluations.

    beside: further rows by their folders; one that is written like a place of this RUN stands under its whole path.
    Returns the file's path. Raises EvaluationError.
    """
    rows = {place: read_evaluation(posixpath.join(url, place)) for place in evaluated_places(url)}
    others = {Store(folder).path() if folder in rows else folder: found for folder, found in beside.items()}
    store = Store(url)
    store.put(MARKDOWN, markdown_table({**rows, **others}).encode())
    return store.path(MARKDOWN)


def evaluated_places(url: str) -> list[str]:
    """Where a RUN has evaluations of whole benchmarks: start/eval, round-000/eval, eval/DIGEST."""
    store = Store(url)
    tops = ["start", *(round_folder("", index) for index in rounds_among(store.folders()))]
    places = [posixpath.join(top, "eval") for top in tops]
    places += [posixpath.join("eval", name) for name in sorted(store.folders("eval"))]
    return [place for place in places if _benchmarks(posixpath.join(url, place))]


def read_evaluation(folder: str) -> dict[str, EvalResult]:
    """The results in the folder of one policy's evaluation, by benchmark. Raises EvaluationError where it has none."""
    found = {name: read_results(posixpath.join(folder, name)) for name in _benchmarks(folder)}
    if not found:
        raise EvaluationError(
            f"{folder} holds no evaluation, which is a folder of NAME/{RESULTS}; check the path (RUN/start/eval, "
            "RUN/round-000/eval, RUN/eval/DIGEST), or evaluate first"
        )
    return found


def _benchmarks(folder: str) -> list[str]:
    store = Store(folder)
    return [name for name in sorted(store.folders()) if store.exists(posixpath.join(name, RESULTS))]


def benchmark_row(result: EvalResult) -> dict[str, Any]:
    """One benchmark: for each number its value, standard error and the ends of its interval, as shares."""
    estimates = {f"pass@{k}": found for k, found in result.pass_at.items()}
    estimates |= {f"maj@{k}": found for k, found in result.majority.items()}
    estimates |= {"reward": result.reward} if result.reward is not None else {}
    row: dict[str, Any] = {
        "benchmark": result.benchmark,
        "policy_digest": result.policy_digest,
        "prompts": result.prompts,
        "samples": result.samples,
    }
    for name, found in estimates.items():
        row |= {name: found.value, f"{name}_standard_error": found.standard_error}
        row |= {f"{name}_low": found.low, f"{name}_high": found.high}
    return row | {"mean_length": result.mean_length, "truncated": result.truncated, "unscored": result.unscored}


def prompt_rows(result: EvalResult) -> Iterator[dict[str, Any]]:
    """One row a prompt: counts of its samples, mean reward and length, maj@k of all samples."""
    for i, name in enumerate(result.prompt_ids):
        yield {
            "benchmark": result.benchmark,
            "prompt_id": name,
            "samples": result.samples,
            "correct": result.correct_P[i],
            "reward": result.reward_P[i],
            "majority": result.majority_P[i],
            "mean_length": result.length_P[i],
            "truncated": result.truncated_P[i],
            "unscored": result.unscored_P[i],
        }


def markdown_table(evaluations: Evaluations) -> str:
    """Policies as rows, benchmarks as columns, then their mean and the mean length: the layout of the paper's tables.

    A cell is pass@k in per cent, of the smallest and the largest k ("14.8/39.1"), with the first one's 95 % interval,
    which is not symmetric. The mean is over the benchmarks, each alike, for policies evaluated on all of them. A cell
    over other prompts than the first of its column has a star, which is explained below the table.

    evaluations: policy -> benchmark -> result; columns stand in the order in which they are first met.
    """
    names = list(dict.fromkeys(name for results in evaluations.values() for name in results))
    ks = sorted({k for results in evaluations.values() for one in results.values() for k in one.pass_at})
    shown = [ks[0], ks[-1]] if len(ks) > 1 else ks
    lines = [
        f"| {'/'.join(f'pass@{k}' for k in shown)}, % | {' | '.join(map(_cell, names))} | mean | tokens |",
        "| --- " * (len(names) + 3) + "|",
    ]
    asked = {name: _first(evaluations, name).prompt_ids for name in names}
    for policy, results in evaluations.items():
        cells = [_passed(results[name], shown, asked[name]) if name in results else "" for name in names]
        star = f" {STAR}" if any(cell.endswith(STAR) for cell in cells) else ""
        means = [f"{mean}{star}" if mean else "" for mean in _means(results, names, shown)]
        lines.append(f"| {_cell(policy)} | {' | '.join(cells)} | {' | '.join(means)} |")
    if any(f" {STAR} |" in line for line in lines):
        lines += ["", f"{STAR} over other prompts than the first of its column: the two are no comparison of policies"]
    return "\n".join(lines) + "\n"


def _first(evaluations: Evaluations, name: str) -> EvalResult:
    return next(results[name] for results in evaluations.values() if name in results)


def _means(results: Mapping[str, EvalResult], names: Sequence[str], ks: Sequence[int]) -> tuple[str, str]:
    """The mean of pass@k and of lengths over all benchmarks; empty where one is missing."""
    if set(names) - results.keys():
        return "", ""
    every = [results[name] for name in names]
    means = [
        f"{100 * sum(one.pass_at[k].value for one in every) / len(every):.1f}" if _all_have(every, k) else "-"
        for k in ks
    ]
    return "/".join(means), f"{sum(one.mean_length for one in every) / len(every):.0f}"


def _all_have(results: Sequence[EvalResult], k: int) -> bool:
    return all(k in one.pass_at for one in results)


def _passed(result: EvalResult, ks: Sequence[int], asked: Sequence[str]) -> str:
    values = [f"{100 * result.pass_at[k].value:.1f}" if k in result.pass_at else "-" for k in ks]
    star = "" if set(result.prompt_ids) == set(asked) else f" {STAR}"
    return "/".join(values) + _interval(result.pass_at.get(ks[0])) + star


def _interval(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f" ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _parquet(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()
