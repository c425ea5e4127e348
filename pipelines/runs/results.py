"""What rounds came to: one row a round and benchmark, as `run`, `rounds` and the demo end with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.runs.estimates import Estimate
from pipelines.runs.evaluate import EvalResult, EvaluationError, read_results
from pipelines.runs.lineage import training_metrics
from pipelines.runs.run import Run
from pipelines.runs.summary import ShapedSummary
from pipelines.runs.tables import Sheet, numbers

Row = dict[str, Any]


def result_rows(run: Run, summaries: Mapping[int, ShapedSummary]) -> list[Row]:
    """The starting policy where it was evaluated, then each round of `summaries`: a row a benchmark, or one."""
    metrics = training_metrics(run.url)
    rows = [result_row("start", None, result, {}) for result in _results(run, None)]
    for index, summary in summaries.items():
        found: list[EvalResult | None] = [*_results(run, index)] or [None]
        rows += [result_row(str(index), summary, result, metrics.get(index, {})) for result in found]
    return rows


def result_row(title: str, summary: ShapedSummary | None, result: EvalResult | None, train: Mapping[str, float]) -> Row:
    """One row: what a round's rollouts were like (summary), and the policy that it made (result, train).

    pass@K and standard_error are of the smallest k, of 1. samples: rollouts judged. mean_length: their
    tokens, those of the round's own rollouts where nothing was evaluated. behavior_kl: KL(new, old), nats a token.
    """
    row: Row = {"round": title}
    if result is not None:
        k = min(result.pass_at)
        row |= {"benchmark": result.benchmark, f"pass@{k}": result.pass_at[k].value}
        row |= {"standard_error": result.pass_at[k].standard_error, "samples": result.prompts * result.samples}
    measured = result or summary
    return row | {
        "mean_length": None if measured is None else measured.mean_length,
        "chunks_per_rollout": summary.chunks_per_rollout if summary else None,
        "zero_advantage": summary.zero_advantage if summary else None,
        "behavior_kl": train.get("behavior_kl"),
    }


def results_sheet(rows: Sequence[Row]) -> Sheet:
    """The rows for the terminal; percentages with the standard error over prompts."""
    passed = next((name for row in rows for name in row if name.startswith("pass@")), "pass@1")
    sheet = Sheet(
        "round", "benchmark", numbers(passed, "%"), numbers("samples"), numbers("length", "tokens"),
        numbers("chunks", "/rollout"), numbers("all zero", "%"), numbers("KL", "nats"),
        caption=f"{passed} ± its standard error over prompts. length: mean. all zero: rollouts whose every advantage "
        "is 0. KL: of the new policy from the one that sampled.",
    )  # fmt: skip
    for row in rows:
        sheet.add_row(
            row["round"],
            row.get("benchmark", ""),
            f"{100 * row[passed]:.1f} ± {100 * row['standard_error']:.1f}" if passed in row else "",
            f"{row['samples']:,}" if "samples" in row else "",
            _figure(row["mean_length"], ".1f"),
            _figure(row["chunks_per_rollout"], ".1f"),
            _figure(row["zero_advantage"], ".1f", scale=100.0),
            _figure(row["behavior_kl"], ".4f"),
        )
    return sheet


def evaluation_sheet(results: Sequence[EvalResult]) -> Sheet:
    """Evaluations of one policy for the terminal: a row a benchmark, each number with its interval over prompts."""
    ks = sorted({k for result in results for k in result.pass_at})
    votes = sorted({k for result in results for k in result.majority})
    figures = [*(f"pass@{k}" for k in ks), *(f"maj@{k}" for k in votes), "reward"]
    columns = [numbers(name, "%") for name in figures]
    rest = [numbers("length", "tokens"), numbers("cut off", "%"), numbers("unscored")]
    graded = " reward: the mean one, where the verifier gives partial credit (token F1 beside exact match)."
    graded = graded if any(result.graded for result in results) else ""
    sheet = Sheet(
        "benchmark",
        numbers("prompts"),
        numbers("samples", "a prompt"),
        *columns,
        *rest,
        caption="In brackets: 95 % interval over prompts. maj: majority vote." + graded,
    )
    for result in results:
        found = [*map(result.pass_at.get, ks), *map(result.majority.get, votes)]
        found.append(result.reward if result.graded else None)
        counts = (f"{result.prompts:,}", f"{result.samples:,}")
        told = (f"{result.mean_length:.1f}", f"{100 * result.truncated:.1f}", f"{result.unscored:,}")
        sheet.add_row(result.benchmark, *counts, *map(_interval, found), *told)
    return sheet


def _interval(found: Estimate | None) -> str:
    """A share in per cent with the ends of its interval, or its standard error where there are none."""
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{100 * found.value:.1f} ± {100 * found.standard_error:.1f}"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _results(run: Run, round_index: int | None) -> Iterator[EvalResult]:
    """The stored evaluation of each benchmark: the whole one where it was made, else that of the first N prompts."""
    if run.config.eval is None:
        return
    folder = f"{run.url}/start" if round_index is None else run.folder(round_index)
    for name in run.config.eval.benchmarks:
        for whole in (True, False):
            suffix, _ = run.config.eval.asked(name, whole=whole)
            try:
                yield read_results(f"{folder}/eval{suffix}/{name}")
            except EvaluationError:
                continue
            break


def _figure(value: float | None, form: str, *, scale: float = 1.0) -> str:
    return "" if value is None else format(scale * value, form)
