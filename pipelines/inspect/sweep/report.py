"""The result of a sweep as a terminal table, as Parquet and as an SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group
from rich.text import Text

from pass_ops.shards import canonical_json
from pipelines.inspect.pictures import BLUE, GREY, ORANGE, picture_bytes
from pipelines.inspect.sweep.choose_text import choose_columns, choose_tables, number, settings_table
from pipelines.inspect.sweep.results import SettingResult

_SLOPE_FIELDS = ("per_token", "standard_error", "within_groups", "rollouts")
_NUMBERS = (
    "positive_share", "positive_mean", "positive_std", "negative_share", "negative_mean", "negative_std",
    "zero_advantage", "chunks_per_rollout", "correlation", "sign_flips",
)  # fmt: skip
_COUNTS = ("rollouts", "trainable", "tokens", "compared_tokens")

_NO_SLOPE = "Pay for one more token is unknown: no prompt has right, or wrong, rollouts of different lengths."


def sweep_view(results: Sequence[SettingResult]) -> Group:
    """For the terminal: the advantages of each setting, and what each pays for length."""
    advantages = settings_table("Advantages", "A > 0", "A < 0", "zero", "chunks", "corr.", "flips")
    advantages.caption = (
        "A > 0, A < 0: share of tokens, mean, std. zero: share of rollouts whose every advantage is 0. chunks: per "
        "rollout. corr., flips: correlation and opposite signs of token advantages against the reference."
    )
    lengths = settings_table("Pay for one more token", "path, right", "path, wrong", "mass, right", "mass, wrong")
    lengths.caption = (
        "Slope of the path score and of a rollout's summed advantage (mass) against its length, among right and among "
        "wrong rollouts of one prompt. Above 0, length is paid for."
    )
    for result in results:
        advantages.add_row(
            result.name,
            _signed(result.positive_share, result.positive_mean, result.positive_std),
            _signed(result.negative_share, result.negative_mean, result.negative_std),
            _percent(result.zero_advantage),
            f"{result.chunks_per_rollout:.1f}",
            number(result.correlation),
            _percent(result.sign_flips),
        )
        slopes = [group[side].within_groups for group in (result.path, result.mass) for side in ("right", "wrong")]
        if any(slope is not None for slope in slopes):
            lengths.add_row(result.name, *(number(slope) for slope in slopes))
    left_out = [Text(f"{one.name} also stands for {', '.join(one.same)}") for one in results if one.same]
    if left_out:
        left_out.insert(0, Text("Left out, since the estimator does not read what sets them apart:"))
    pay = lengths if lengths.rows else Text(f"\n{_NO_SLOPE}")
    return Group(advantages, pay, *choose_tables(results), *left_out)


def sweep_records(results: Sequence[SettingResult]) -> pa.Table:
    """One row a setting: `setting`, `options` (JSON), the numbers of `SettingResult`, and its slopes as
    path_right_per_token, path_right_standard_error, path_right_within_groups, path_right_rollouts and so on. Where they
    were asked for also truth_... and gradient_..., as `choose_columns` names them.
    """
    fields = [("setting", pa.string()), ("options", pa.string())]
    fields += [(name, pa.int64()) for name in _COUNTS] + [(name, pa.float64()) for name in _NUMBERS]
    fields += [
        (f"{what}_{side}_{name}", pa.int64() if name == "rollouts" else pa.float64())
        for what in ("path", "mass")
        for side in ("right", "wrong")
        for name in _SLOPE_FIELDS
    ]
    made = pa.Table.from_pylist([_record(result) for result in results], schema=pa.schema(fields))
    for name, values in choose_columns(results).items():
        made = made.append_column(name, pa.array(values, pa.float64()))
    return made


def sweep_parquet(results: Sequence[SettingResult]) -> bytes:
    """`sweep_records` as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(sweep_records(results), sink)
    return sink.getvalue()


def sweep_svg(results: Sequence[SettingResult]) -> bytes:
    """One row a setting, one panel a question; the same results give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "passrl sweep", "svg.fonttype": "none", "font.size": 8.0}):
        figure = Figure(figsize=(2.6 * len(_PANELS) + 1.5, 1.3 + 0.28 * len(results)), layout="tight")
        axes = figure.subplots(1, len(_PANELS), sharey=True)
        for ax, (title, series) in zip(axes, _PANELS.items(), strict=True):
            _draw(ax, title, series, results)
        axes[0].set_yticks(range(len(results)), [result.name for result in results])
        axes[0].invert_yaxis()
        return picture_bytes(figure, ".svg")


@dataclass(frozen=True)
class _Series:
    """What a panel shows of each setting; `spread` as a whisker to both sides."""

    label: str
    color: str
    value: Callable[[SettingResult], float | None]
    spread: Callable[[SettingResult], float | None] = lambda _: None


_PANELS = {
    "advantage per sign: mean, std": (
        _Series("A > 0", BLUE, lambda r: r.positive_mean, lambda r: r.positive_std),
        _Series("A < 0", ORANGE, lambda r: r.negative_mean, lambda r: r.negative_std),
    ),
    "share, %": (
        _Series("rollouts all 0", GREY, lambda r: 100 * r.zero_advantage),
        _Series("flipped signs", ORANGE, lambda r: 100 * r.sign_flips),
    ),
    "correlation with the reference": (_Series("token advantages", BLUE, lambda r: r.correlation),),
    "chunks per rollout": (_Series("chunks", BLUE, lambda r: r.chunks_per_rollout),),
    "path score for one more token": (
        _Series("right", BLUE, lambda r: r.path["right"].within_groups),
        _Series("wrong", ORANGE, lambda r: r.path["wrong"].within_groups),
    ),
    "mass for one more token": (
        _Series("right", BLUE, lambda r: r.mass["right"].within_groups),
        _Series("wrong", ORANGE, lambda r: r.mass["wrong"].within_groups),
    ),
}


def _draw(ax: Any, title: str, panel: Sequence[_Series], results: Sequence[SettingResult]) -> None:
    ax.set_title(title)
    ax.grid(axis="both", linewidth=0.4, alpha=0.5)
    ax.axvline(0.0, color="black", linewidth=0.6)
    for place, series in enumerate(panel):
        shown = [(x, row, series.spread(r)) for row, r in enumerate(results) if (x := series.value(r)) is not None]
        for x, row, spread in shown:
            if spread is not None:
                ax.plot([x - spread, x + spread], [row, row], color=series.color, linewidth=1.0, alpha=0.5)
        # The second series is smaller, so that it does not hide a first one of the same value.
        size = 6.5 if place == 0 else 3.5
        xs, ys = [x for x, _, _ in shown], [row for _, row, _ in shown]
        ax.plot(xs, ys, "o", color=series.color, markersize=size, label=series.label)
    if len(panel) > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, ncols=2)


def _record(result: SettingResult) -> dict[str, Any]:
    record: dict[str, Any] = {"setting": result.name, "options": canonical_json(result.options)}
    record |= {name: getattr(result, name) for name in (*_COUNTS, *_NUMBERS)}
    for what, slopes in (("path", result.path), ("mass", result.mass)):
        for side, slope in slopes.items():
            record |= {f"{what}_{side}_{name}": value for name, value in asdict(slope).items()}
    return record


def _signed(share: float, mean: float | None, std: float | None) -> str:
    part = f"{100 * share:.0f} %"
    return part if mean is None or std is None else f"{part} {mean:+.3g} {std:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
