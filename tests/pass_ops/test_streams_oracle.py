"""`shape` against the slow oracle of streams: random configurations over tables of random groups.

How near is equal: results are float32, so half a unit in their last place (2^-24 of the value) is always allowed.
Beyond that, `bounded` says for every single number how far float64 sums in another order can be from the oracle's:
about 1e-15 of the value for most, more where terms cancel. A group is left out where that is more than 1e-6 of its
largest result, or where rounding decides (which of two equal sums is greater, whether a mean is above 0); the tests
hold the share of those below one in ten.
"""

from __future__ import annotations

import random

import pytest
from cases_streams import check
from oracle_streams import Options, Table
from random_streams import configuration, table_of
from shrink_streams import smallest

# `make test-deep` compares 100,000 groups in SLICES; `make test` PARTS times EACH configurations of GROUPS groups.
SLICES, COMPARED, TABLE = 20, 5000, 10
PARTS, EACH, GROUPS = 8, 50, 5
LEFT_OUT = 0.1


def compare(seed: int, groups: int) -> int:
    """How many groups were compared."""
    rng = random.Random(seed)
    chosen, every = configuration(rng)
    table = table_of(rng, every, groups=groups)
    try:
        return groups - check(table, chosen)
    except Exception:
        check(*smallest(table, chosen, fails))
        raise


def fails(table: Table, o: Options) -> bool:
    try:
        check(table, o)
    except Exception:  # noqa: BLE001 - whatever `shape` raises is a disagreement
        return True
    return False


@pytest.mark.parametrize("part", range(PARTS))
def test_random_streams_agree_with_the_oracle(part):
    compared = sum(compare(seed, GROUPS) for seed in range(part * EACH, (part + 1) * EACH))
    assert compared >= (1 - LEFT_OUT) * EACH * GROUPS


@pytest.mark.deep
@pytest.mark.parametrize("number", range(SLICES))
def test_100_000_random_groups_agree_with_the_oracle(number):
    assert SLICES * COMPARED == 100_000
    compared = made = 0
    while compared < COMPARED:
        compared += compare(10**6 * (number + 1) + made, TABLE)
        made += TABLE
    assert compared >= (1 - LEFT_OUT) * made
