"""The search for cyclic garbage is left out inside, and is what it was outside."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from pass_ops.support.garbage import no_search_for_cycles


@pytest.fixture(autouse=True)
def searched() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_inside_nothing_is_collected_but_by_call() -> None:
    with no_search_for_cycles():
        seen = weakref.ref(Cycle())
        made = [[] for _ in range(100_000)]  # far more than what starts a search
        assert seen() is not None
        gc.collect()
        assert seen() is None
    assert gc.isenabled()
    assert made


def fails_inside() -> None:
    with no_search_for_cycles(), no_search_for_cycles():
        assert not gc.isenabled()
        raise ValueError("inside")


@pytest.mark.parametrize("before", [True, False])
def test_afterwards_it_is_as_it_was_whatever_happened(before: bool) -> None:
    if not before:
        gc.disable()
    with pytest.raises(ValueError, match="inside"):
        fails_inside()
    assert gc.isenabled() is before
