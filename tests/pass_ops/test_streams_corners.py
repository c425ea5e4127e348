"""The corners of streams that the random cases of test_streams_oracle reach: each is seen in `make test`."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from oracle_streams import read_streams, signal_of
from random_streams import FUSED, GATES, MENU, OF_LISTS, OPERATORS, POOLS, configuration, table_of
from test_streams_oracle import EACH, PARTS

LEAST = 3
PAIRS = [(operator, pool) for operator in OPERATORS for pool in POOLS if (operator, pool) != ("rank", "dataset")]


@pytest.fixture
def seen() -> Counter:
    seen: Counter = Counter()
    for seed in range(PARTS * EACH):
        rng = random.Random(seed)
        chosen, every = configuration(rng)
        seen.update(corners(chosen, every))
        if seed < EACH:
            seen.update(groups(table_of(rng, every, groups=5)))
    return seen


def corners(chosen, every):
    level = {source.signal: source.level for source in every}
    read = read_streams(chosen)
    yield ("streams", len(read))
    for stream in read.values():
        yield ("level", level[stream.signal])
        yield ("signal", stream.signal)
        yield (stream.operator, stream.pool)
        yield ("gate", stream.gate, "otherwise" if stream.otherwise else "")
        yield from (("transform", name, level[stream.signal] == "rollout") for name, _ in stream.transform)
        yield from (("after", name, level[stream.signal] == "rollout") for name, _ in stream.after)
    if chosen.fused:
        yield ("fused", chosen.fused.operator, chosen.fused.pool, chosen.fused.per)
    if chosen.chunk:
        named = chosen.chunk_by or tuple(read)
        yield ("chunks", *sorted({level[read[name].signal] for name in named}))
    yield ("divide", chosen.divide)
    if any(stream.weight == 0 for stream in read.values()):
        yield "weight 0, but read"
    if any(read[s.otherwise].otherwise for s in read.values() if s.otherwise):
        yield "a chain of otherwise"
    if any(signal_of(s.signal, columns(every)).values.endswith("_ok") for s in read.values()):
        yield "flags"


def columns(every):
    return {name: kind for source in every for name, kind in source.columns().items()}


def groups(table):
    for group in table.groups:
        yield ("size", len(group) == 1)
        for r in group:
            yield ("null", None in r.values())
            yield ("empty", not r["mask"])
            yield ("masked", bool(r["mask"]) and not any(r["mask"]))
            yield ("partly", any(r["mask"]) and not all(r["mask"]))


EXPECTED = [
    *PAIRS,
    *(
        ("gate", gate, otherwise)
        for gate in GATES
        for otherwise in ("", "otherwise")
        if (gate, otherwise) != ("always", "otherwise")
    ),
    *(("transform", name, False) for name in OF_LISTS),
    *(("after", name, False) for name in OF_LISTS),
    *((place, name, True) for place in ("transform", "after") for name in ("clip", "compress", "length_normalization")),
    *(
        ("fused", operator, pool, per)
        for operator in FUSED
        for pool in ("group", "dataset")
        for per in ("element", "token")
    ),
    *(("signal", name) for name in MENU),
    *(("level", name) for name in ("rollout", "step", "token")),
    *(("streams", n) for n in range(1, 6)),
    *(("chunks", *names) for names in (("rollout",), ("step",), ("token",), ("step", "token"))),
    *(("divide", x) for x in (True, False)),
    *((name, True) for name in ("size", "null", "empty", "masked", "partly")),
    "weight 0, but read",
    "a chain of otherwise",
    "flags",
]


def test_every_corner_is_reached(seen):
    assert [corner for corner in EXPECTED if seen[corner] < LEAST] == []
