"""Values and calls between two processes that do not trust each other."""

from __future__ import annotations

import datetime
import json
import math
import socket
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.verifiers.sandbox.peers import Peer, Remote
from pipelines.verifiers.sandbox.wire import Message, WireError

atoms = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.fractions()
    | st.decimals(allow_nan=False) | st.datetimes() | st.dates() | st.timedeltas() | st.complex_numbers(allow_nan=False)
)  # fmt: skip
keys = st.none() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.lists(inner).map(tuple)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=20,
)


def over(value: Any) -> Any:
    """The value after a journey as text."""
    message = Message(lambda one: pytest.fail(f"{one!r} is no plain data"))
    sent = json.loads(json.dumps([message.encode(value), message.contents()]))
    return Message(lambda one: None).receive(sent[1], lambda one: pytest.fail(f"{one} is no plain data"))(sent[0])


@given(values)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    found = over(value)
    assert found == value
    assert type(found) is type(value)


def test_what_hypothesis_does_not_try() -> None:
    for value in ("\ud800", range(2, 9, 3), Counter("aab"), OrderedDict(b=1, a=2), deque([1, [2]]), bytearray(b"x")):
        assert (over(value), type(over(value))) == (value, type(value))
    assert over(10**5000) - 10**5000 == 0
    assert math.isnan(over(math.nan))


def test_a_list_named_twice_is_one_list_and_may_hold_itself() -> None:
    inner: list[Any] = []
    inner.append(inner)
    one, two = over((inner, inner))
    assert one is two
    assert one[0] is one


@pytest.mark.parametrize(
    "sent", [["os", "_exit"], ["os", ""], ["no_such_module", ""], ["pipelines.verifiers", "VERIFIERS"]]
)
def test_no_function_and_no_module_is_an_answer(sent: list[str]) -> None:
    read = Message(lambda one: None).receive([], lambda one: None)
    with pytest.raises(WireError):
        read({"t": "known", "v": sent})


class Evil:
    def __eq__(self, other: object) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return True

    def __contains__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x

    def __hash__(self) -> int:
        return self.x


def fail(kind: type[Exception]) -> None:
    raise kind("told")


def read(one: Any, name: str) -> Any:
    return getattr(one, name)


PROGRAM = {
    "evil": Evil(),
    "Point": Point,
    "append": lambda xs: xs.append(len(xs)),
    "call": lambda function, *arguments: function(*arguments),
    "read": read,
    "fail": lambda: fail(type("Missing", (ModuleNotFoundError,), {})),
    "numbers": lambda: iter([1, 2]),
    "half": lambda x: Fraction(x, 2) + Decimal(0).as_integer_ratio()[0],
}


@pytest.fixture
def program() -> Iterator[dict[str, Any]]:
    """A program's objects, as the tests have them."""
    ours, theirs = socket.socketpair()
    serving = threading.Thread(target=Peer(theirs, lambda: PROGRAM, guarded=False).serve)
    serving.start()
    yield Peer(ours, None, guarded=True).ask("call", 0, by_name=True)
    ours.close()
    serving.join()
    theirs.close()


def test_an_object_of_the_program_takes_no_part_in_a_comparison(program: dict[str, Any]) -> None:
    evil = program["evil"]
    assert isinstance(evil, Remote)
    assert not evil == 41  # noqa: SIM201  the operator itself
    assert 41 not in [evil]
    for compared in (lambda: evil < 41, lambda: 41 in evil, lambda: evil - 41, lambda: 41 + evil):
        with pytest.raises(TypeError):
            compared()


def test_objects_of_the_program_are_compared_with_each_other_by_the_program(program: dict[str, Any]) -> None:
    point = program["Point"]
    assert point(1) == point(1)
    assert point(1) != point(2)
    assert isinstance(point(1), point)
    one = point(1)
    one.x = 7
    assert one.x == 7


def test_what_the_program_changes_has_changed(program: dict[str, Any]) -> None:
    xs: list[int] = [5]
    held = {"xs": xs}
    program["append"](xs)
    assert held == {"xs": [5, 1]}
    assert list(program["numbers"]()) == [1, 2]
    assert program["half"](3) == Fraction(3, 2)


def test_the_program_calls_what_it_was_handed_and_reaches_nothing_behind_it(program: dict[str, Any]) -> None:
    secret = 41

    def function(x: int) -> int:
        return x + secret

    assert program["call"](function, 1) == 42
    assert program["call"](max, 1, 2) == 2
    for name in ("__globals__", "__closure__", "__code__"):
        with pytest.raises(AttributeError):
            program["read"](function, name)


def test_a_module_that_the_program_lacks_does_not_look_like_one_that_the_tests_lack(program: dict[str, Any]) -> None:
    with pytest.raises(ImportError) as caught:
        program["fail"]()
    assert not isinstance(caught.value, ModuleNotFoundError)


def test_dates_of_the_standard_library_are_known_by_name(program: dict[str, Any]) -> None:
    assert program["call"](datetime.date, 2024, 2, 29) == datetime.date(2024, 2, 29)
