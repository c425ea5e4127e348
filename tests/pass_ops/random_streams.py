"""Random configurations of streams and random tables of groups under them, made to reach the corners.

Everything follows from a `random.Random`: drawing all of it by Hypothesis takes ten times as long as the oracle itself.
tests/pass_ops/test_streams_corners.py counts the corners that are reached; `smallest` makes a failing case small.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from oracle_operators import Transform
from oracle_streams import Fused, Options, Stream, Table
from strategies import EXPONENTS, FORMS, Kind, mask_of, value_of

WEIGHTS = (1.0, 1.0, 1.0, 0.0, 0.5, 2.0, -1.0, 0.1, 1e6, -1e-6)
MAGNITUDES = (1.0, 1.0, 1.0, 1.0, 1e-3, 1e5, 1e25, 1e-20, 1e-44)  # the last is denormal in float32
OPERATORS = ("masked_norm", "abs_max", "mean_only", "leave_one_out", "mean_normalized", "rank", "none")
POOLS = ("group", "right", "wrong", "state", "joint", "dataset")
GATES = ("always", "right", "wrong", "single_outcome", "mixed", "format")
FUSED = ("masked_norm", "abs_max", "mean_only", "mean_normalized")
SIZES = {  # (most rollouts, most tokens)
    "small": (6, 10),
    "wide": (24, 5),
    "long": (3, 80),
}
USUAL = ("small", "small", "small", "small", "small", "small", "small", "wide", "long")

MENU = {  # signal -> its value column and the column of its ends
    "process": ("process_scores", "process_ends"),
    "judge": ("judge_process_scores", "judge_process_ends"),
    "critic": ("critic_scores", "critic_ends"),
    "plain": ("plain", "plain_ends"),
    "teacher": ("teacher_logprobs", None),
    "kl_x": ("kl_x_process_scores", "kl_x_process_ends"),
    "outcome": ("outcome_reward", None),
    "length": ("length_outcome_reward", None),
    "style": ("style_format_reward", None),
    "format": ("format_reward", None),
    "code": ("code_ok", None),
    "safe": ("safe_format_ok", None),
}
LISTS = ("process", "judge", "critic", "plain", "teacher", "kl_x")
NUMBERS = ("critic", "plain")  # may be one number as well


@dataclass(frozen=True, kw_only=True)
class Source:
    """A signal of the table, with a column of states beside it."""

    signal: str
    level: str
    values: str
    ends: str | None
    kind: str  # of the value column
    states: str | None  # "text" or "whole"
    decoy: str | None  # a column that comes later among those a signal's values are looked for in
    form: str
    magnitude: float

    @property
    def key(self) -> str:
        return f"{self.signal}_state"

    def columns(self) -> dict[str, str]:
        columns = {self.values: self.kind}
        if self.ends:
            columns[self.ends] = "ends"
        if self.decoy:
            columns[self.decoy] = "bool"
        if self.states:
            columns[self.key] = self.states + "s" * (self.level != "rollout")
        return columns


def source(rng: random.Random, signal: str) -> Source:
    level = "rollout"
    values, ends = MENU[signal]
    if signal == "format" and rng.random() < 0.5:
        values = "format_ok"
    if signal in LISTS:
        levels = ("step", "step", "token") if ends else ("token",)
        level = rng.choice((*levels, "rollout") if signal in NUMBERS else levels)
    flag = values.endswith("_ok")
    return Source(
        signal=signal,
        level=level,
        values=values,
        ends=ends if level == "step" else None,
        kind="bool" if flag else "number" if level == "rollout" else "numbers",
        states=rng.choice((None, "text", "whole")),
        decoy=f"{signal}_format_ok" if rng.random() < 0.2 and values != f"{signal}_format_ok" else None,
        form="flag" if flag else rng.choice(FORMS),
        magnitude=rng.choice(MAGNITUDES),
    )


# --- options ------------------------------------------------------------------------------------------------------

TRANSFORMS: dict[str, tuple[dict, ...]] = {
    "clip": ({"low": -0.5}, {"high": 0.25}, {"low": -0.75, "high": 0.5}, {"low": 0.0, "high": 0.0}),
    "compress": ({}, {"scale": 0.5}, {"scale": 1e5}),
    "length_normalization": ({}, {"power": 0.5}, {"power": 0.0}),
    "function": ({"path": "stream_functions:folded"}, {"path": "stream_functions:from_the_last"}),
}
OF_LISTS: dict[str, tuple[dict, ...]] = TRANSFORMS | {
    "difference": ({}, {"start": "first"}, {"start": "outcome"}, {"start": 0.5}),
    "min_form": ({}, {"temperature": 1.0}, {"temperature": 1e4}),
    "sparsify": ({"keep": 0.3}, {"keep": 0.5}, {"keep": 1.0}, {"keep": 0.01}),
    "return_to_go": ({}, {"discount": 0.5}, {"discount": 0.0}, {"discount": 0.9}),
}


def transforms(rng: random.Random, level: str) -> tuple[Transform, ...]:
    each = TRANSFORMS if level == "rollout" else OF_LISTS
    names = rng.choices(sorted(each), k=rng.choice((0, 0, 0, 1, 1, 2)))
    return tuple((name, rng.choice(each[name])) for name in names)


def stream(rng: random.Random, of: Source, joint: str, no_dataset: bool) -> Stream:
    operator = rng.choice(OPERATORS)
    gate = rng.choice(GATES)
    pools = set(POOLS)
    if operator == "rank" or no_dataset:
        pools -= {"dataset"}
    if not of.states:
        pools -= {"state"}
    if operator == "leave_one_out":
        pools -= {"right", "wrong"} - {gate}
    pool = rng.choice(sorted(pools))
    return Stream(
        signal=of.signal,
        weight=rng.choice(WEIGHTS),
        transform=transforms(rng, of.level),
        operator=joint if pool == "joint" else operator,
        pool=pool,
        key=of.key if pool == "state" else None,
        after=transforms(rng, of.level),
        gate=gate,
    )


NAMES = ("a", "Zeta", "b_2", "process", "outcome", "m")


def configuration(rng: random.Random) -> tuple[Options, list[Source]]:
    """Any options, and the sources that a table under them must have."""
    signals = {"outcome", rng.choice(LISTS), *rng.sample(sorted(MENU), k=rng.randint(0, 3))}
    every = [source(rng, signal) for signal in sorted(signals)]
    fused = None
    if rng.random() < 0.4:
        fused = Fused(rng.choice(FUSED), pool=rng.choice(("group", "dataset")), per=rng.choice(("element", "token")))
    joint = rng.choice(OPERATORS)
    names = rng.sample(NAMES, k=rng.randint(1, 5))
    of = {name: rng.choice(every) for name in names}
    made = {name: stream(rng, of[name], joint, bool(fused and fused.pool == "dataset")) for name in names}
    for i, name in enumerate(names):
        if made[name].gate != "always" and names[i + 1 :] and rng.random() < 0.5:
            made[name] = replace(made[name], otherwise=rng.choice(names[i + 1 :]))
    named = tuple(name for name in names if of[name].level != "rollout" and rng.random() < 0.5)
    if all(one.weight == 0 for one in made.values()):  # refused
        made[names[0]] = replace(made[names[0]], weight=1.0)
    chosen = Options(
        streams=made,
        right=rng.choice([s.signal for s in every if s.level == "rollout"]),
        right_above=rng.choice((0.0, 0.0, 0.1, 0.5, -1.0)),
        fused=fused,
        chunk_by=named,
        divide=rng.random() < 0.5,
        k=rng.choice(EXPONENTS),
        eta=rng.choice((1e-8, 1e-8, 0.3, 0.0)),
        chunk=rng.random() < 0.75,
        ddof=rng.choice((1, 1, 0)),
        eps=rng.choice((1e-6, 1e-6, 0.0)),
    )
    return chosen, every


# --- tables -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    size: int
    kinds: tuple[Kind, ...]
    alike: bool  # every value of a signal is the same
    single: bool  # one outcome
    states: int  # how many there are
    passes: float  # share of rollouts whose flags are true


def kind_of(rng: random.Random, columns: dict[str, str], most_tokens: int, nulls: bool) -> Kind:
    return Kind(
        length=rng.choice((rng.randint(0, most_tokens), rng.randint(0, most_tokens), most_tokens, 3, 2, 1, 0)),
        mask=rng.choice(("none", "none", "prefix", "middle", "tail", "scattered", "all")),
        single_tokens=rng.random() < 0.25,
        scores="",
        magnitude=1.0,
        missing=frozenset({rng.choice(sorted(columns))} if nulls and rng.random() < 0.1 else ()),
    )


def group_plan(rng: random.Random, columns: dict[str, str], nulls: bool) -> GroupPlan:
    most, most_tokens = SIZES[rng.choice(USUAL)]
    return GroupPlan(
        size=rng.choice((rng.randint(1, most), rng.randint(1, most), 1, most)),
        kinds=tuple(kind_of(rng, columns, most_tokens, nulls) for _ in range(rng.randint(1, 3))),
        alike=rng.random() < 0.12,
        single=rng.random() < 0.25,
        states=rng.randint(1, 3),
        passes=rng.choice((0.6, 0.6, 1.0, 0.0)),
    )


def columns_of(every: list[Source]) -> dict[str, str]:
    columns = {"format_ok": "bool"}
    for source in every:
        columns |= source.columns()
    return columns


def table_of(rng: random.Random, every: list[Source], *, groups: int, nulls: bool = True) -> Table:
    columns = columns_of(every)
    return Table([build(rng, group_plan(rng, columns, nulls), every) for _ in range(groups)], columns)


def build(rng: random.Random, plan: GroupPlan, every: list[Source]) -> list[dict]:
    alike = {s.signal: value(rng, s, plan) for s in every if plan.alike or (plan.single and s.signal == "outcome")}
    return [rollout(rng, plan, rng.choice(plan.kinds), every, alike) for _ in range(plan.size)]


def rollout(rng: random.Random, plan: GroupPlan, kind: Kind, every: list[Source], alike: dict[str, float]) -> dict:
    mask = mask_of(rng, kind)
    r: dict = {"mask": mask, "format_ok": rng.random() < plan.passes}
    for s in every:
        ends = ends_of(rng, kind)
        if s.decoy:
            r[s.decoy] = rng.choice((True, False, None))
        if s.level == "rollout":
            r[s.values] = alike.get(s.signal, value(rng, s, plan))
            if s.states:
                r[s.key] = state(rng, s, plan)
            continue
        if s.ends:
            r[s.ends] = ends
        else:
            ends = list(range(1, kind.length + 1))
        r[s.values] = [alike.get(s.signal, value(rng, s, plan)) for _ in ends]
        if s.states:
            r[s.key] = [state(rng, s, plan) for _ in ends]
        for j, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if not any(mask[start:end]) and rng.random() < 0.5:
                r[s.values][j] = rng.choice((math.nan, math.inf, -math.inf))  # never read
    for name in kind.missing:
        r[name] = None
    return r


def ends_of(rng: random.Random, kind: Kind) -> list[int]:
    stays = 0.0 if kind.single_tokens else rng.random()
    return [e for e in range(1, kind.length + 1) if e == kind.length or rng.random() > stays]


def value(rng: random.Random, s: Source, plan: GroupPlan) -> float | bool:
    if s.form == "flag":
        return rng.random() < plan.passes
    return value_of(rng, s.form, s.magnitude)


def state(rng: random.Random, s: Source, plan: GroupPlan) -> str | int:
    label = rng.randrange(plan.states)
    return f"s{label}" if s.states == "text" else label - 1
