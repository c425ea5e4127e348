"""Token-level process signals from log-probabilities (paper Sec. 2.2, Eq. 5).

    OPD      s(t) = l_teacher(t) - l_policy(t)
    G-OPD    s(t) = -[(l_policy(t) - l_base(t)) - lam * (l_teacher(t) - l_base(t))]

All are natural log-probabilities of the sampled tokens at temperature 1 over the full vocabulary. OPD is the negated
one-sample estimate of the reverse KL; G-OPD with lam > 1 extrapolates beyond the teacher, away from the base (the
actor's initial weights), and with lam = 1 is OPD whatever the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
import pyarrow as pa

from pass_ops.errors import (
    LengthMismatchError,
    NonFiniteError,
    NullValueError,
    OptionError,
    OutputOverflowError,
)
from pass_ops.reading import columns
from pass_ops.reading.ragged import list_array, offsets, ragged, room

Lists: TypeAlias = "pa.Array | columns.ArrowStream"

_BLOCK = 1 << 13  # tokens at once: a few float64 arrays of them stay in a core's cache


def opd_scores(*, policy: Lists, teacher: Lists) -> pa.ListArray:
    """OPD: l_teacher - l_policy for each token.

    Args:
        policy: list<float32>, one list per rollout, one log-probability per completion token, 0.0 where masked; a null
            list where they could not be computed. A pyarrow array, or anything with `__arrow_c_stream__` (a polars or
            pandas Series). float64 is rounded to float32.
        teacher: the same of the teacher.

    Returns:
        list<float32> of the same lengths; null where one of the inputs is null. Arithmetic is float64.

    Raises:
        ColumnTypeError: an input is no list of numbers, or has a float64 value beyond float32.
        LengthMismatchError: the inputs have different numbers of rollouts or of tokens.
        NullValueError: a null inside a list.
        NonFiniteError: NaN or infinity in an input.
        OutputOverflowError: a score is beyond float32.
    """
    return _aligned({"policy": policy, "teacher": teacher}).lists(lambda policy, teacher: teacher - policy)


def g_opd_scores(*, policy: Lists, base: Lists, teacher: Lists, lam: float = 1.25) -> pa.ListArray:
    """G-OPD (Eq. 5): -[(l_policy - l_base) - lam * (l_teacher - l_base)] for each token.

    Computed as (l_teacher - l_policy) + (lam - 1) * (l_teacher - l_base), the same value, so that lam = 1 gives the
    bits of `opd_scores`.

    Args:
        policy: as in `opd_scores`.
        base: the same of the actor's initial weights.
        teacher: as in `opd_scores`.
        lam: the extrapolation lambda, any finite number; 1.25 in the paper.

    Returns:
        As `opd_scores`.

    Raises:
        OptionError: lam is not a finite number. And as `opd_scores`.
    """
    if isinstance(lam, bool) or not isinstance(lam, (int, float)) or not math.isfinite(lam):
        raise OptionError(f"option lam: expected a finite number, got {lam!r}; the paper uses 1.25")
    weight = float(lam) - 1.0
    return _aligned({"policy": policy, "base": base, "teacher": teacher}).lists(
        lambda policy, base, teacher: (teacher - policy) + weight * (teacher - base)
    )


@dataclass(frozen=True)
class _Aligned:
    """Inputs of equal lengths, reduced to the rows that all of them have."""

    values: dict[str, np.ndarray]  # float32, all rows one after the other
    valid_R: np.ndarray
    counts_R: np.ndarray

    def lists(self, score: Callable[..., np.ndarray]) -> pa.ListArray:
        """`score` of the inputs in float64, in blocks that stay in the processor's cache, rounded to float32."""
        tokens = int(self.counts_R.sum())
        stored_N = room(tokens, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, tokens, _BLOCK):
                block = slice(start, start + _BLOCK)
                stored_N[block] = score(
                    **{name: whole[block].astype(np.float64) for name, whole in self.values.items()}
                )
        if not np.isfinite(stored_N).all():
            self._refuse(stored_N)
        return list_array(offsets(self.counts_R), stored_N, valid_R=self.valid_R)

    def _refuse(self, stored_N: np.ndarray) -> NoReturn:
        """Name what makes a score that is no number: every NaN or infinity in an input does."""
        for name, values_N in self.values.items():
            if not np.isfinite(values_N).all():
                raise NonFiniteError(self._place(f"{name} is not finite", values_N))
        raise OutputOverflowError(self._place("the score is beyond float32", stored_N))

    def _place(self, fact: str, values_N: np.ndarray) -> str:
        at = int(np.argmin(np.isfinite(values_N)))
        starts_R1 = np.concatenate([[0], np.cumsum(self.counts_R)])
        row = int(np.searchsorted(starts_R1, at, side="right")) - 1
        return (
            f"row {row}: {fact} ({values_N[at]}) at token {at - starts_R1[row]}; store 0.0 at masked tokens, and make "
            "the whole list null where a log-probability could not be computed"
        )


def _aligned(inputs: dict[str, Lists]) -> _Aligned:
    arrays = {name: _lists(name, given) for name, given in inputs.items()}
    (first, *others) = arrays
    for name in others:
        if len(arrays[name]) != len(arrays[first]):
            raise LengthMismatchError(
                f"{first} has {len(arrays[first])} rows and {name} {len(arrays[name])}; give one list per rollout, "
                "in the same order"
            )
    valid_R = np.logical_and.reduce([a.is_valid().to_numpy(zero_copy_only=False) for a in arrays.values()])
    lengths = {name: ragged(array).lengths_R for name, array in arrays.items()}
    for name in others:
        differ_R = valid_R & (lengths[name] != lengths[first])
        if differ_R.any():
            row = int(np.argmax(differ_R))
            raise LengthMismatchError(
                f"row {row}: {first} has {lengths[first][row]} values and {name} {lengths[name][row]}; "
                "give one log-probability for each completion token"
            )
    if not valid_R.all():
        arrays = {name: array.filter(pa.array(valid_R)) for name, array in arrays.items()}
    values = {name: array.flatten().to_numpy() for name, array in arrays.items()}
    return _Aligned(values, valid_R, np.where(valid_R, lengths[first], 0))


def _lists(name: str, given: Lists) -> pa.ListArray:
    array = columns.to_type(columns.to_array(given, name=name), columns.LIST_OF_FLOAT32, name=name)
    row = columns.first_null_in_lists(array)
    if row is not None:
        raise NullValueError(
            f"row {row}: {name} holds a null inside its list; store 0.0 at masked tokens, or make the whole list null"
        )
    return array
