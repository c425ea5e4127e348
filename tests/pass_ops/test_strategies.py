"""The corners of the method that the strategies reach: each is seen many times in what the other tests are given."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from strategies import SIGNALS, USUAL, groups

LEAST = 5


def unmasked(r):
    return [t for t, counts in enumerate(r["mask"]) if counts]


def values(r):
    """The scores that are read: of steps with an unmasked token."""
    starts = [0, *(r.get("ends") or range(1, len(r["mask"]) + 1))]
    return [s for s, (a, b) in zip(r["scores"] or [], itertools.pairwise(starts), strict=False) if any(r["mask"][a:b])]


def complete(r):
    return all(value is not None for value in r.values())


def any_rollout(holds):
    return lambda group: any(complete(r) and holds(r) for r in group)


def pool(group):
    return [s for r in group if complete(r) for s in values(r)]


def smallest(group):
    return min((abs(s) for s in pool(group) if s != 0), default=1.0)


CORNERS = {
    "one rollout": lambda group: len(group) == 1,
    "64 rollouts": lambda group: len(group) == 64,
    "64 rollouts, one of 400 tokens": lambda group: len(group) == 64 and max(len(r["mask"]) for r in group) == 400,
    "an empty completion": any_rollout(lambda r: len(r["mask"]) == 0),
    "one token": any_rollout(lambda r: len(r["mask"]) == 1 and unmasked(r)),
    "400 tokens": any_rollout(lambda r: len(r["mask"]) == 400 and unmasked(r)),
    "nothing masked": any_rollout(lambda r: r["mask"] and all(r["mask"])),
    "a masked prefix": any_rollout(lambda r: unmasked(r) and unmasked(r)[0] > 0),
    "a masked middle": any_rollout(lambda r: any(b > a + 1 for a, b in itertools.pairwise(unmasked(r)))),
    "a masked tail": any_rollout(lambda r: unmasked(r) and unmasked(r)[-1] < len(r["mask"]) - 1),
    "everything masked": any_rollout(lambda r: r["mask"] and not any(r["mask"])),
    "masked beside unmasked rollouts": lambda group: (
        any(complete(r) and any(r["mask"]) for r in group) and any(complete(r) and not any(r["mask"]) for r in group)
    ),
    "NaN or infinity where nothing is read": any_rollout(lambda r: not all(map(math.isfinite, r["scores"]))),
    "equal neighbouring scores": any_rollout(lambda r: any(a == b for a, b in itertools.pairwise(values(r)))),
    "unequal neighbouring scores": any_rollout(lambda r: any(a != b for a, b in itertools.pairwise(values(r)))),
    "a constant process signal": lambda group: len(pool(group)) > 1 and len(set(pool(group))) == 1,
    "a process signal of zeros": lambda group: len(pool(group)) > 1 and set(pool(group)) == {0.0},
    "constant outcomes": lambda group: len(group) > 1 and len({r["outcome"] for r in group}) == 1,
    "outcomes that differ": lambda group: len({r["outcome"] for r in group} - {None}) > 1,
    "outcomes of zero": lambda group: len(group) > 1 and {r["outcome"] for r in group} == {0.0},
    "format rewards of zero": lambda group: len(group) > 1 and {r["format"] for r in group} == {0.0},
    "a failed format": any_rollout(lambda r: r["ok"] is False and unmasked(r)),
    "failed beside passed formats": lambda group: {r["ok"] for r in group if complete(r)} == {True, False},
    "no format passed": lambda group: len(group) > 1 and {r["ok"] for r in group} == {False},
    "a null process signal": lambda group: any(r["scores"] is None for r in group),
    "a null outcome": lambda group: any(r["outcome"] is None for r in group),
    "a null format reward": lambda group: any(r["format"] is None for r in group),
    "a null format indicator": lambda group: any(r["ok"] is None for r in group),
    "nulls beside values": lambda group: len({complete(r) for r in group}) == 2,
    "nothing but nulls": lambda group: not any(complete(r) for r in group),
    "huge scores": lambda group: max(map(abs, pool(group)), default=0.0) >= 1e29,
    "tiny scores": lambda group: 1e-22 <= smallest(group) < 1e-18,
    "denormal scores": lambda group: smallest(group) < 1.1e-38,
    "denormal rewards": lambda group: any(r["outcome"] and abs(r["outcome"]) < 1.1e-38 for r in group),
    "huge beside tiny scores": lambda group: max(map(abs, pool(group)), default=0.0) > 1e25 * smallest(group),
}
ONLY_PRM = {
    "null step ends": lambda group: any(r["ends"] is None for r in group),
    "steps of one token": any_rollout(
        lambda r: len(unmasked(r)) > 1 and r["ends"] == list(range(1, len(r["mask"]) + 1))
    ),
    "a step of several tokens": any_rollout(lambda r: unmasked(r) and len(r["ends"]) < len(r["mask"])),
    "a wholly masked step beside others": any_rollout(lambda r: 0 < len(values(r)) < len(r["ends"])),
    "a step masked in part": any_rollout(
        lambda r: any(0 < sum(r["mask"][a:b]) < b - a for a, b in itertools.pairwise([0, *r["ends"]]))
    ),
}


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_strategies_reach_every_corner_many_times(signal):
    corners = CORNERS | ONLY_PRM if signal == "prm" else CORNERS
    reached = Counter()

    def look(some):
        reached.update(name for group in some for name, holds in corners.items() if holds(group))

    once = settings(
        derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    settings(once, max_examples=200)(given(groups(signal, sizes=USUAL))(look))()
    settings(once, max_examples=20)(given(groups(signal, sizes=("large",), least=1, most=1))(look))()
    assert {name: reached[name] for name in corners if reached[name] < LEAST} == {}
