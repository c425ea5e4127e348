"""A few trials of each family; `make chaos` runs hundreds."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos import disks
from tests.chaos.arena import Arena, Ended
from tests.chaos.outcome import follow
from tests.chaos.run import KINDS, Done, attempt, page, plan

# Of each family some that make it into `make test`: a few seconds each.
FEW = ("kill: rounds", "kill: train", "twins: train", "disk: full")


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Arena:
    return Arena(tmp_path_factory.mktemp("chaos"), tiny_model)


@pytest.mark.parametrize("kind", FEW)
def test_a_disturbed_run_ends_as_the_undisturbed_one(arena, kind):
    if kind == "disk: full" and not disks.disks_of_their_own():
        pytest.skip("no mount namespace here")
    done = attempt(arena, kind, 0, seed=0)
    assert done.how != "failed", done.words


def test_the_plan_is_the_same_for_the_same_seed_and_numbers_each_kind():
    first, again, other = (list(islice(plan(list(KINDS), seed), 400)) for seed in (0, 0, 1))
    assert first == again != other
    numbers = [number for kind, number in first if kind == "kill: rounds"]
    assert numbers == list(range(len(numbers)))
    assert {kind for kind, _ in first} == set(KINDS)


@pytest.mark.parametrize(
    ("code", "text", "fault"),
    [
        (0, "done\n", None),
        (2, "passrl rounds: no such file\n", None),
        (1, "error: sha256: part is damaged\n", None),
        (2, "usage\n", "without a sentence"),
        (1, "Traceback (most recent call last):\n", "a traceback"),
        (-11, "", "ended with -11"),
        (0, "\x1b[31mred", "control characters"),
    ],
)
def test_what_no_command_may_do(code, text, fault):
    found = Ended(code=code, text=text).fault
    assert found is None if fault is None else fault in found


def test_a_message_is_followed_to_the_letter(arena):
    place = arena.place("followed")
    part = next(place.run.glob("round-000/rollouts/part-000001-*"))
    assert follow(f"passrl rounds: {part} is damaged", place=place, origin=arena.origin) is None
    assert follow(f"passrl rounds: {part} is damaged; remove it", place=place, origin=arena.origin) == ()
    assert not part.exists()
    assert follow(f"passrl rounds: {part} is gone; restore it", place=place, origin=arena.origin) == ()
    assert part.exists()


def test_a_result_that_differs_is_seen(arena):
    place = arena.place("differs")
    assert arena.difference(place) is None
    log = place.run / "round-001" / "train" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"rollouts": 1', '"rollouts": 2'))
    assert arena.difference(place) == "round-001/train/metrics.jsonl differs"


def test_the_page_counts_each_kind():
    done = [
        Done(kind="kill: rounds", number=0, how="same", words=""),
        Done(kind="kill: rounds", number=1, how="failed", words="!"),
    ]
    assert "| kill: rounds | 2 | 1 | 0 | 0 | 1 |" in page(done, seed=0, seconds=60, jobs=2)
