"""How the loops are compiled: once, kept on disk, without the interpreter's lock, with IEEE arithmetic as written.

No fast-math: a sum's order is part of the result, so that it does not depend on the machine, on how a table was cut
into parts, or on the number of threads. Numba keys its cache by the file of the outermost function, so a kernel only
calls functions of its own file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

Function = TypeVar("Function", bound=Callable[..., object])
LOCK = "passrl-kernels.lock"


def part(function: Function) -> Function:
    """Inline `function` into the kernels that call it.

    A call between compiled functions counts references to its arrays atomically, which costs more than the arithmetic
    of a short row.
    """
    return cast("Function", numba.njit(inline="always", nogil=True, error_model="numpy")(function))


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's, except that what is loaded needs no compiler, that an index which cannot be read is an empty one, and
    that processes take turns.

    Numba's own begins with a refresh of everything that a compilation may look up: types and functions of all its
    modules, and scipy's linear algebra, for 0.4 s. What is compiled needs the runtime only; where a kernel has
    to be compiled after all, the compiler refreshes by itself.

    The index names types by module and is read before its age is looked at: that of an older release, in which a module
    had another name, would else be the end of the first call.

    Numba reads the index, adds a file's name to it, and writes that file last. Two processes that compile a kernel for
    different types at once would both choose the same name, and the index would give one of them the code of the other.
    """

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        with self._locked():
            try:
                rtsys.initialize(target_context)
                return self._load_overload(signature, target_context)
            except (ImportError, AttributeError, EOFError, UnpicklingError):
                self.flush()
                return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with self._locked():
            super().save_overload(signature, data)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """While no other process reads or writes this folder's cache; without a lock on a disk that has none."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                lock = held.enter_context(open(os.path.join(self.cache_path, LOCK), "a"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                held.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # closing leaves it to a child forked meanwhile
            yield


def kernel(function: Function) -> Function:
    """Compile `function` with numba on first use."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # numba finds no folder it may write its cache to
        compiled._cache = _Cache(function)  # as its enable_caching() does
    return cast("Function", compiled)
