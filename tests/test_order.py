"""The order in which `make test` runs the files: tests/conftest.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import SLOW, pytest_collection_modifyitems

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("start", SLOW)
def test_what_is_said_to_be_slow_is_there(start: str) -> None:
    assert (ROOT / start).exists()


def test_slow_rooms_come_first_and_within_a_room_the_order_stays() -> None:
    files = ["tests/pass_ops/test_a.py", "tests/trainer/test_b.py", "tests/trainer/test_a.py", "tests/e2e/test_z.py"]
    items = [SimpleNamespace(nodeid=f"{file}::test") for file in files]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.nodeid.partition("::")[0] for item in items] == [files[3], files[1], files[2], files[0]]
