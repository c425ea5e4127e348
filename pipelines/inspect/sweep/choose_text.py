"""What helps to choose a setting, as tables for the terminal and as columns for Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.inspect.forecast import Forecast, pays_from
from pipelines.inspect.padding import POSITIONS, Position
from pipelines.inspect.resample import Estimate
from pipelines.inspect.sweep.results import SettingResult
from pipelines.runs.tables import Sheet, numbers, texts

_SIDES = ("right", "wrong")


def choose_tables(results: Sequence[SettingResult]) -> list[Sheet]:
    """A table for each question that was asked; none where none was."""
    made = []
    if any(result.truth for result in results):
        made.append(_truth_table(results))
    if any(result.gradient for result in results):
        made.append(_gradient_table(results))
    if any(result.forecast for result in results):
        made.append(_forecast_table(results))
    return made


def choose_columns(results: Sequence[SettingResult]) -> dict[str, list[float | None]]:
    """Numbers by column, one a setting: truth_rank, truth_alignment with _low and _high, truth_signal_to_noise (the
    median), gradient_norm and so on. Forecasts have many rows a setting and are in the JSON alone.
    """
    found: dict[str, list[float | None]] = {}
    for result in results:
        for name, value in _columns_of(result):
            found.setdefault(name, []).append(value)
    return found


def _columns_of(result: SettingResult) -> Iterator[tuple[str, float | None]]:
    if (truth := result.truth) is not None:
        for name in ("rank", "rank_low", "rank_high", "best_share", "prompts", "flat_prompts", "rollouts", "tokens"):
            yield f"truth_{name}", getattr(truth, name)
        for name in ("alignment", "within_groups"):
            estimate: Estimate = getattr(truth, name)
            yield f"truth_{name}", estimate.value
            yield f"truth_{name}_low", estimate.low
            yield f"truth_{name}_high", estimate.high
        yield "truth_signal_to_noise", truth.signal_to_noise["median"]
    if (gradient := result.gradient) is not None:
        for name in ("norm", "cosine_reference", "cosine_truth"):
            yield f"gradient_{name}", getattr(gradient, name)


def settings_table(title: str, *columns: str) -> Sheet:
    """A row a setting, whose name may wrap."""
    return Sheet(texts("setting"), *map(numbers, columns), title=title)


def _truth_table(results: Sequence[SettingResult]) -> Sheet:
    table = settings_table("Agreement with the truth", "rank", "alignment", "within", "S/N", "first")
    judged = [(result.name, result.truth) for result in results if result.truth is not None]
    for name, truth in sorted(judged, key=lambda one: one[1].rank):
        table.add_row(
            name,
            f"{truth.rank} ({truth.rank_low}-{truth.rank_high})" if truth.rank_low else f"{truth.rank}",
            _estimate(truth.alignment),
            number(truth.within_groups.value),
            number(truth.signal_to_noise["median"]),
            "" if truth.best_share is None else f"{100 * truth.best_share:.0f} %",
        )
    _, truth = judged[0]
    left_out = [
        f"{count:,} {why}"
        for count, why in ((truth.without_truth, "without a truth"), (truth.untrainable, "not trainable somewhere"))
        if count
    ]
    left = f" (left out: {', '.join(left_out)})" if left_out else ""
    table.caption = (
        f"{truth.tokens:,} tokens of {truth.rollouts:,} rollouts of {truth.prompts:,} prompts"
        f"{left}. alignment: E[A A*] / sqrt(E[A^2] E[A*^2]) with "
        "its 95 % interval over prompts; within: each prompt's means taken off. S/N: median over prompts of the power "
        "of A along A* against the rest. rank, first: in 95 % of the draws of prompts, and the share where it is first."
    )
    return table


def _gradient_table(results: Sequence[SettingResult]) -> Sheet:
    table = settings_table("Policy gradients", "norm", "cos. truth", "cos. reference")
    for result in results:
        if (found := result.gradient) is not None:
            cosines = (number(found.cosine_truth), number(found.cosine_reference))
            table.add_row(result.name, f"{found.norm:.3g}", *cosines)
            table.caption = (
                f"Of the trainer's loss over {found.groups:,} groups as one step: their cosine with the gradient "
                "of A* and with that of the reference setting."
            )
    return table


def _forecast_table(results: Sequence[SettingResult]) -> Sheet:
    """Of each setting and position: what few and many added steps earn at the middle level, and from what score on."""
    counts = sorted({one.steps for result in results for one in result.forecast})
    shown = sorted({counts[0], counts[-1]})
    heads = [f"+{count} {side}" for side in _SIDES for count in shown]
    table = settings_table("Pay for added steps", "at", *heads, "from, r", "from, w", "own")
    for result in results:
        for position in POSITIONS:
            here = [one for one in result.forecast if one.position == position]
            if here:
                table.add_row(result.name if position == POSITIONS[0] else "", *_forecast_row(here, position, shown))
    table.caption = (
        "Change of a right and of a wrong rollout's total credit (the advantage at its first token) by steps added at "
        "its start, middle or end, scored at the median of the stored scores. from: the lowest score at which "
        f"{counts[0]} pays a right (r) and a wrong (w) rollout (-: at none). own: mean advantage of the added steps; "
        "above 0 they become likelier."
    )
    return table


def _forecast_row(here: Sequence[Forecast], position: Position, shown: Sequence[int]) -> Iterator[str]:
    yield position
    scores = sorted({one.score for one in here if one.score is not None})
    middle = scores[len(scores) // 2] if scores else None
    medians = [one.score for one in here if one.quantile == 0.5]
    at = {one.steps: one for one in here if one.score == (medians[0] if medians else middle)}
    for side in _SIDES:
        for count in shown:
            yield signed(at[count].total[side].value)
    for side in _SIDES:
        lowest = pays_from(here, position=position, steps=shown[0], side=side)
        yield "-" if lowest is None else f"{lowest:.2g}"
    yield signed(at[shown[0]].own["all"].value)


def number(value: float | None) -> str:
    """Three digits; nothing for None."""
    return "" if value is None else f"{value:.3g}"


def signed(value: float | None) -> str:
    """Two digits and the sign, which a plain 0 lacks; nothing for None."""
    return "" if value is None else f"{value:+.2g}" if value else "0"


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return number(estimate.value)
    return f"{estimate.value:.2f} {estimate.low:.2f}..{estimate.high:.2f}"
