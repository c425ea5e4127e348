"""A pytest plugin for mutated code: kernels run as plain Python.

Compiled, each mutant of a kernel would cost seconds, and one that reads out of bounds would read what lies there;
interpreted, it raises IndexError. numba takes Python floats for doubles and adds bytes up in int64; numpy computes in
what it meets, float32 or uint8, so arguments are widened on the way in.
"""

from __future__ import annotations

import functools

import numba
import numpy as np


def _widened(value):
    """`value` as numba would compute with it: in double precision, and whole numbers without a carry lost."""
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return value.astype(np.int64)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_widened, value))
    return value


def _copy_back(wide, value):
    if isinstance(value, np.ndarray) and wide is not value and value.flags.writeable:
        value[...] = wide
    elif isinstance(value, tuple):
        for part, original in zip(wide, value, strict=True):
            _copy_back(part, original)


def _interpreted(function=None, **_options):
    if function is None:
        return _interpreted

    @functools.wraps(function)
    def kernel(*args):
        wide = tuple(map(_widened, args))
        with np.errstate(all="ignore"):
            result = function(*wide)
        _copy_back(wide, args)
        return result

    return kernel


numba.njit = _interpreted
