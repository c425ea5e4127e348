"""Hypothesis strategies for groups of rollouts and for options, made to reach the corners of the method.

Hypothesis draws what a group is made of (how many rollouts, of which kinds, with which rewards) and a seed; the single
values follow from the seed, so that 64 rollouts of 400 tokens cost a few draws and a failure shrinks to simple kinds.
tests/pass_ops/test_strategies.py counts the corners that are reached.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from oracle import Options

ESTIMATORS = ("pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime")
WITH_CHUNKS = ("pass", "reward_shaping")  # of these two, `chunk`, `eta` and `k` are options
APART = ("pass", "gdpo")  # these standardize each stream by an operator of its own
SIGNALS = ("prm", "kl")
OPERATORS = ("masked_norm", "abs_max", "mean_only", "leave_one_out", "none")
EXPONENTS = (0.0, 0.3, 0.7, 1.0)
WEIGHTS = (1.0, 1.0, 1.0, 0.0, 0.5, 2.0, -1.0)
MAGNITUDES = (1.0, 1.0, 1.0, 1e-3, 1e5, 1e30, 1e-20, 1e-44)  # the last are denormal in float32
MODERATE = (1.0, 1e-3, 1e5)
ALL_COLUMNS = frozenset({"outcome", "format", "ok"})
FORMS = ("levels", "levels", "binary", "constant", "zero", "any")
USUAL = ("small", "small", "small", "wide", "long")
SIZES = {  # (fewest rollouts, most rollouts, most tokens)
    "small": (1, 6, 12),
    "wide": (1, 64, 6),
    "long": (1, 3, 400),
    "large": (64, 64, 400),  # always with completions of 400
}


def examples(number: int) -> settings:
    """Settings for `number` examples, or the same share of them as the profile in force has of Hypothesis' own 100."""
    return settings(max_examples=math.ceil(number * settings.default.max_examples / 100), deadline=None)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What some of a group's rollouts are like."""

    length: int
    mask: str
    single_tokens: bool  # prm: every token is a step
    scores: str
    magnitude: float
    missing: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    size: int
    kinds: tuple[Kind, ...]
    outcome: tuple[str, float]
    format: tuple[str, float]
    passes: float  # share of rollouts whose format is right
    seed: int


def kinds(signal: str, most_tokens: int, magnitudes: tuple[float, ...], nulls: bool) -> st.SearchStrategy[Kind]:
    streams = ("scores", "outcome", "format", "ok") + (("ends",) if signal == "prm" else ())
    return st.builds(
        Kind,
        length=st.one_of(st.integers(0, most_tokens), st.sampled_from((most_tokens, most_tokens, 2, 1, 0))),
        mask=st.sampled_from(("none", "none", "prefix", "middle", "tail", "scattered", "all")),
        single_tokens=st.booleans(),
        scores=st.sampled_from(FORMS),
        magnitude=st.sampled_from(magnitudes),
        missing=st.sampled_from([frozenset()] * 15 + [frozenset({name}) for name in streams] + [frozenset(streams)])
        if nulls
        else st.just(frozenset()),
    )


@st.composite
def group_plans(draw, signal, *, sizes=("small",), magnitudes=MAGNITUDES, nulls=True):
    fewest, most, most_tokens = SIZES[draw(st.sampled_from(sizes))]
    rewards = st.tuples(st.sampled_from(FORMS), st.sampled_from(magnitudes))
    mixed = draw(st.lists(kinds(signal, most_tokens, magnitudes, nulls), min_size=1, max_size=4))
    if fewest == most:
        mixed[0] = replace(mixed[0], length=most_tokens)
    alike = draw(st.sampled_from((None, None, None, None, "constant", "zero")))
    if alike:
        mixed = [replace(kind, scores=alike, magnitude=mixed[0].magnitude) for kind in mixed]
    return GroupPlan(
        size=draw(st.one_of(st.integers(fewest, most), st.just(most))),
        kinds=tuple(mixed),
        outcome=draw(rewards),
        format=draw(rewards),
        passes=draw(st.sampled_from((0.7, 1.0, 0.0))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def groups(draw, signal, *, columns=ALL_COLUMNS, least=0, most=3, **plan):
    """Some groups, each a list of rollouts as the oracle takes them."""
    plans = draw(st.lists(group_plans(signal, **plan), min_size=least, max_size=most))
    return [build(p, signal, columns) for p in plans]


@st.composite
def options(draw, estimator, signal):
    """Any options of an estimator, and the columns that may be there with them."""
    one = draw(st.sampled_from(OPERATORS))
    each = tuple(draw(st.sampled_from(OPERATORS)) for _ in range(3))
    chosen = Options(
        estimator=estimator,
        signal=signal,
        standardize=each if estimator in APART and draw(st.booleans()) else (one,) * 3,
        weights=tuple(draw(st.sampled_from(WEIGHTS)) for _ in range(3)),
        k=draw(st.sampled_from(EXPONENTS)),
        eta=draw(st.sampled_from((1e-8, 1e-8, 0.3, 0.0))),
        chunk=draw(st.booleans()),
        ddof=draw(st.sampled_from((1, 1, 0))),
        eps=draw(st.sampled_from((1e-6, 1e-6, 0.0))),
    )
    columns = draw(st.sampled_from(({"format"}, {"ok"}, {"format", "ok"})))
    if chosen.weights[1] != 0 or draw(st.booleans()):
        columns = columns | {"outcome"}
    if chosen.weights[2] == 0 and draw(st.booleans()):
        columns = columns - {"format", "ok"}
    return chosen, frozenset(columns)


def build(plan: GroupPlan, signal: str, columns: frozenset[str]) -> list[dict]:
    rng = random.Random(plan.seed)
    return [_rollout(rng, plan, rng.choice(plan.kinds), signal, columns) for _ in range(plan.size)]


def float32(x: float) -> float:
    return float(np.float32(x))


def _rollout(rng: random.Random, plan: GroupPlan, kind: Kind, signal: str, columns: frozenset[str]) -> dict:
    mask = mask_of(rng, kind)
    ends = list(range(1, kind.length + 1))
    if signal == "prm" and not kind.single_tokens:
        stays = rng.random()
        ends = [e for e in ends if e == kind.length or rng.random() > stays]
    scores = [value_of(rng, kind.scores, kind.magnitude) for _ in ends]
    for j, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if not any(mask[start:end]) and rng.random() < 0.5:
            scores[j] = rng.choice((math.nan, math.inf, -math.inf))  # never read
    r: dict = {"mask": mask, "scores": scores}
    if signal == "prm":
        r["ends"] = ends
    if "outcome" in columns:
        r["outcome"] = value_of(rng, *plan.outcome)
    if "format" in columns:
        r["format"] = value_of(rng, *plan.format)
    if "ok" in columns:
        r["ok"] = rng.random() < plan.passes
    for name in kind.missing & r.keys():
        r[name] = None
    return r


def mask_of(rng: random.Random, kind: Kind) -> list[bool]:
    a, b = sorted((rng.randint(0, kind.length), rng.randint(0, kind.length)))
    hidden = {
        "none": lambda t: False,
        "prefix": lambda t: t < b,
        "middle": lambda t: a <= t < b,
        "tail": lambda t: t >= a,
        "scattered": lambda t: rng.random() < 0.5,
        "all": lambda t: True,
    }[kind.mask]
    return [not hidden(t) for t in range(kind.length)]


def value_of(rng: random.Random, form: str, magnitude: float) -> float:
    if form == "zero":
        return 0.0
    if form == "constant":
        return float32(magnitude * 0.1)
    if form == "binary":
        return float32(magnitude * rng.choice((0, 1)))
    if form == "levels":  # few, so that neighbours are often equal
        return float32(magnitude * rng.choice((-1.0, -0.5, -0.0, 0.0, 0.5, 1.0)))
    return float32(magnitude * rng.gauss(0, 1))
