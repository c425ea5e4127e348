"""What is done to a rollout's values before or after they are standardized (docs/spec/streams.md section 3).

    difference            y_1 = x_1 - b, y_j = x_j - x_(j-1)
    min_form              y_j = x_j exp(-x_j / T) / sum of exp(-x / T)                 (PURE, arXiv 2504.15275)
    clip, compress        min(max(x, low), high), s tanh(x / s)
    sparsify              abs(x) from its quantile 1 - keep on stays, the others become 0
    return_to_go          y_j = x_j + discount * y_(j+1)
    length_normalization  x / n^power

Legend of dimensions: see `pass_ops.reading.stream_rows`; a row's elements lie at starts_R1[r]..starts_R1[r + 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pass_ops.errors import EstimatorError, OptionError, OutputOverflowError
from pass_ops.options.streams import Transform
from pass_ops.reading.ragged import Array
from pass_ops.reading.stream_elements import Elements
from pass_ops.reading.stream_rows import Rows
from pass_ops.support.importing import load_object
from pass_ops.support.jit import kernel

KEEP_DECIMALS = 9  # of keep * (n - 1) before it is rounded down: 0.29 * 100 is 28.999999999999996 in float64


def transformed(transforms: Sequence[Transform], x_E: Array, elements: Elements, rows: Rows, *, stream: str) -> Array:
    """x_E after all transforms, in order.

    Raises:
        OptionError: a function's import path leads to none.
        EstimatorError: a function returned something else than one finite number for each value.
        OutputOverflowError: a result beyond float64.
    """
    for one in transforms:
        with np.errstate(over="ignore", invalid="ignore"):
            x_E = _TRANSFORMS[one.name](one, x_E, elements, rows)
        if not np.isfinite(x_E).all():
            row = elements.row_E[int(np.argmin(np.isfinite(x_E)))]
            raise OutputOverflowError(
                f"{rows.name(row)}: transform {one.name!r} of stream {stream!r} gives a value beyond float64; "
                "scale the signal down"
            )
    return x_E


def _difference(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:
    y_E = np.diff(x_E, prepend=0.0)
    filled_R = np.diff(elements.starts_R1) > 0
    first_F = elements.starts_R1[:-1][filled_R]
    if one.start == "first":
        y_E[first_F] = 0.0
    elif one.start == "outcome":
        y_E[first_F] = x_E[first_F] - mean_outcome(rows)[rows.group_R[filled_R]]
    else:
        y_E[first_F] = x_E[first_F] - one.start
    return y_E


def mean_outcome(rows: Rows) -> Array:
    """The mean of the raw outcome over each group's used rollouts; 0 where there is none."""
    groups = len(rows.starts_G1) - 1
    group_U = rows.group_R[rows.used_R]
    count_G = np.bincount(group_U, minlength=groups)
    total_G = np.bincount(group_U, rows.outcome_R[rows.used_R], minlength=groups)
    mean_G: Array = total_G / np.maximum(count_G, 1)
    return mean_G


def _min_form(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:  # noqa: ARG001
    filled_R = np.diff(elements.starts_R1) > 0
    if not filled_R.any():
        return x_E
    lowest_F = np.minimum.reduceat(x_E, elements.starts_R1[:-1][filled_R])
    counts_F = np.diff(elements.starts_R1)[filled_R]
    share_E = np.exp((np.repeat(lowest_F, counts_F) - x_E) / one.temperature)
    total_F = np.bincount(np.repeat(np.arange(len(counts_F)), counts_F), share_E)
    y_E: Array = x_E * share_E / np.repeat(total_F, counts_F)
    return y_E


def _clip(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:  # noqa: ARG001
    return np.clip(x_E, one.low, one.high)


def _compress(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:  # noqa: ARG001
    return one.scale * np.tanh(x_E / one.scale)


def _sparsify(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:  # noqa: ARG001
    assert one.keep is not None
    filled_R = np.diff(elements.starts_R1) > 0
    counts_F = np.diff(elements.starts_R1)[filled_R]
    kept_F = 1 + np.floor(np.round(one.keep * (counts_F - 1), KEEP_DECIMALS)).astype(np.int64)
    order_E = np.lexsort((-np.abs(x_E), elements.row_E))  # each row from its largest size to its smallest
    least_F = np.abs(x_E)[order_E[elements.starts_R1[:-1][filled_R] + kept_F - 1]]
    return np.where(np.abs(x_E) >= np.repeat(least_F, counts_F), x_E, 0.0)


def _return_to_go(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:  # noqa: ARG001
    assert one.discount is not None
    return return_to_go(x_E, elements.starts_R1, discount=one.discount)


def return_to_go(x_E: Array, starts_R1: Array, *, discount: float = 1.0) -> Array:
    """y_j = x_j + discount * y_(j+1) within each row."""
    y_E = np.empty(len(x_E))
    _accumulate(np.ascontiguousarray(x_E), starts_R1, discount, y_E)
    return y_E


@kernel
def _accumulate(x_E: Array, starts_R1: Array, discount: float, y_E: Array) -> None:
    for r in range(len(starts_R1) - 1):
        rest = 0.0
        for e in range(starts_R1[r + 1] - 1, starts_R1[r] - 1, -1):
            rest = x_E[e] + discount * rest
            y_E[e] = rest


def _length_normalization(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:
    assert one.power is not None
    counts_R = rows.unmasked_R if elements.level == "rollout" else np.diff(elements.starts_R1)
    divisor_R = np.maximum(counts_R, 1).astype(np.float64) ** one.power
    return x_E / divisor_R[elements.row_E]


def _function(one: Transform, x_E: Array, elements: Elements, rows: Rows) -> Array:
    assert one.path is not None
    function = load_transform(one.path)
    y_E = np.empty(len(x_E))
    for r in np.flatnonzero(np.diff(elements.starts_R1)).tolist():
        row = slice(int(elements.starts_R1[r]), int(elements.starts_R1[r + 1]))
        try:
            found = np.asarray(function(x_E[row].copy()), dtype=np.float64)
        except Exception as error:
            error.add_note(f"in transform {one.path!r}, at {rows.name(r)}")
            raise
        if found.shape != x_E[row].shape or not np.isfinite(found).all():
            raise EstimatorError(
                f"{rows.name(r)}: transform {one.path!r} gave {_described(found)} for {len(x_E[row])} values; "
                "return one finite number for each"
            )
        y_E[row] = found
    return y_E


def load_transform(path: str) -> Callable[[Array], Any]:
    """Import the function that `module:function` names.

    Raises:
        OptionError: there is no such module or function, or it cannot be called.
    """
    try:
        function = load_object(path)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"transform 'function': {path!r} cannot be imported ({error}); "
            "put the module on the import path (PYTHONPATH), or name another function"
        ) from error
    if not callable(function):
        raise OptionError(
            f"transform 'function': {path!r} is {function!r}, which cannot be called; name a function of one array"
        )
    return function  # type: ignore[no-any-return]


def _described(found: Array) -> str:
    return f"an array of shape {found.shape}" if np.isfinite(found).all() else "a number that is not finite"


_TRANSFORMS: dict[str, Callable[[Transform, Array, Elements, Rows], Array]] = {
    "difference": _difference,
    "min_form": _min_form,
    "clip": _clip,
    "compress": _compress,
    "sparsify": _sparsify,
    "return_to_go": _return_to_go,
    "length_normalization": _length_normalization,
    "function": _function,
}
