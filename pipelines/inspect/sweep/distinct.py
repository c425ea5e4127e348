"""Settings of a grid that are one and the same, since the estimator does not read what sets them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from pass_ops.options.published import PUBLISHED
from pipelines.inspect.sweep.results import Setting
from pipelines.shaped.stage import ShapeOptions


def distinct(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The settings without those that another one before them equals in all that their estimator reads.

    Each of those that stay names in `same` those that were left out for it. One whose options are the same value by
    value stays: the grid was asked for it by name.
    """
    kept: list[Setting] = []
    for setting in settings:
        read = as_read(setting.options)
        twin = next((n for n, one in enumerate(kept) if as_read(one.options) == read), None)
        if twin is None or kept[twin].options == setting.options:
            kept.append(setting)
        else:
            kept[twin] = replace(kept[twin], same=(*kept[twin].same, setting.name))
    return tuple(kept)


def as_read(options: ShapeOptions) -> ShapeOptions:
    """The options with those that the estimator ignores at their defaults.

    A function of one's own may read every option, so none is ignored.
    """
    defaults: dict[str, Any] = {item.name: item.default for item in fields(ShapeOptions)}
    changes: dict[str, Any] = {name: defaults[name] for name in _ignored(options)}
    if options.streams is None and not options.reads_process and ":" not in options.estimator:
        weights: Any = changes.get("weights", options.weights)
        changes["weights"] = replace(weights, process=defaults["weights"].process)
        changes |= {"process": None, "signal": None}
    return replace(options, **changes)


def _ignored(options: ShapeOptions) -> Iterator[str]:
    """Names of options that are not read."""
    if options.streams is not None:
        yield from () if options.divide else ("k",)
        yield from () if options.chunk else ("eta",)
        return
    method = options.method
    if method is None:
        if options.estimator in PUBLISHED:
            yield from ("k", "eta", "chunk", "standardize")
        return
    if not method.divides:
        yield "k"
    if method.chunks != "process":
        yield from ("eta", "chunk")
    elif not options.chunk or options.signal == "prm":
        yield "eta"
    if method.operator is not None:
        yield "standardize"
