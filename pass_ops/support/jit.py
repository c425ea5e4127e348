"""How the loops are compiled: once, kept on disk, without the interpreter's lock, with IEEE arithmetic as written.

No fast-math: a sum's order is part of the result, so that it does not depend on the machine, on how a table was cut
into parts, or on the number of threads. Numba keys its cache by the file of the outermost function, so a kernel only
calls functions of its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def part(function: Function) -> Function:
    """Inline `function` into the kernels that call it.

    A call between compiled functions counts references to its arrays atomically, which costs more than the arithmetic
    of a short row.
    """
    return cast("Function", numba.njit(inline="always", nogil=True, error_model="numpy")(function))


def kernel(function: Function) -> Function:
    """Compile `function` with numba on first use."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no folder it may write its cache to
        return cast("Function", numba.njit(**options)(function))
