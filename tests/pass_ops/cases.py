"""Random groups that reach the corners of the method, as dicts for the oracle and as tables for `shape`."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from oracle import Options, Shaped, shape_group

import pass_ops

ESTIMATORS = ("pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime")
OPERATORS = ("masked_norm", "abs_max", "mean_only", "leave_one_out", "none")
MAGNITUDES = (1.0, 1.0, 1.0, 1e-3, 1e5, 1e30, 1e-20, 1e-44)  # the last are denormal in float32
COLUMNS = {
    "mask": ("loss_mask", pa.list_(pa.bool_())),
    "scores": ("process_scores", pa.list_(pa.float32())),
    "ends": ("process_ends", pa.list_(pa.int32())),
    "outcome": ("outcome_reward", pa.float32()),
    "format": ("format_reward", pa.float32()),
    "ok": ("format_ok", pa.bool_()),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a random table is like."""

    seed: int
    signal: str
    groups: int = 3
    most_rollouts: int = 5
    most_tokens: int = 12
    nulls: float = 0.1
    masked: float = 0.5
    levels: int = 4
    columns: frozenset[str] = frozenset({"outcome", "format", "ok"})


def float32(x: float) -> float:
    return float(np.float32(x))


def make_groups(plan: Plan) -> list[list[dict]]:
    rng = random.Random(plan.seed)
    return [
        [_rollout(rng, plan, magnitude) for _ in range(rng.randint(1, plan.most_rollouts))]
        for magnitude in [rng.choice(MAGNITUDES) for _ in range(plan.groups)]
    ]


def _rollout(rng: random.Random, plan: Plan, magnitude: float) -> dict:
    length = rng.choice((0, 1, rng.randint(0, plan.most_tokens), rng.randint(0, plan.most_tokens)))
    mask = _mask(rng, length, plan.masked)
    ends = list(range(1, length + 1))
    if plan.signal == "prm":
        stays = rng.random()
        ends = [e for e in ends if e == length or rng.random() > stays]
    scores = [_score(rng, plan.levels, magnitude) for _ in ends]
    for j, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if not any(mask[start:end]) and rng.random() < 0.5:
            scores[j] = rng.choice((math.nan, math.inf, -math.inf))  # never read
    r: dict = {"mask": mask, "scores": scores}
    if plan.signal == "prm":
        r["ends"] = ends
    if "outcome" in plan.columns:
        r["outcome"] = rng.choice((0.0, 1.0, float32(rng.uniform(-2, 2))))
    if "format" in plan.columns:
        r["format"] = rng.choice((0.0, 1.0, float32(rng.uniform(-1, 1))))
    if "ok" in plan.columns:
        r["ok"] = rng.random() < 0.7
    for name in r.keys() - {"mask"}:
        if rng.random() < plan.nulls:
            r[name] = None
    return r


def _mask(rng: random.Random, length: int, masked: float) -> list[bool]:
    kind = rng.choice(("prefix", "middle", "tail", "some", "all")) if rng.random() < masked else "none"
    a, b = sorted((rng.randint(0, length), rng.randint(0, length)))
    hidden = {
        "none": lambda t: False,
        "prefix": lambda t: t < a,
        "middle": lambda t: a <= t < b,
        "tail": lambda t: t >= b,
        "some": lambda t: rng.random() < 0.5,
        "all": lambda t: True,
    }[kind]
    return [not hidden(t) for t in range(length)]


def _score(rng: random.Random, levels: int, magnitude: float) -> float:
    """One of a few levels, so that neighbours are often equal, or any number."""
    if rng.random() < 0.9:
        return float32(magnitude * rng.randint(-levels, levels) / max(levels, 1))
    return float32(magnitude * rng.gauss(0, 1))


def to_table(groups: list[list[dict]]) -> pa.Table:
    """One row a rollout. A column is there when the first rollout has its key, and in an empty table."""
    rows = [r for group in groups for r in group]
    columns = {
        "rollout_id": pa.array([f"g{g}/{i}" for g, group in enumerate(groups) for i in range(len(group))], pa.string()),
        "group_id": pa.array([f"g{g}" for g, group in enumerate(groups) for _ in group], pa.string()),
    }
    for key, (name, kind) in COLUMNS.items():
        if not rows or key in rows[0]:
            columns[name] = pa.array([r[key] for r in rows], kind)
    return pa.table(columns)


def to_config(options: Options) -> pass_ops.ShapingConfig:
    process, outcome, format_ = options.standardize
    together = process == outcome == format_
    standardize = process if together else pass_ops.Standardizers(process=process, outcome=outcome, format=format_)
    w_prc, w_out, w_fmt = options.weights
    return pass_ops.ShapingConfig(
        estimator=options.estimator,
        signal=options.signal,
        standardize=standardize,
        weights=pass_ops.Weights(process=w_prc, outcome=w_out, format=w_fmt),
        k=options.k,
        eta=options.eta,
        chunk=options.chunk,
        std_ddof=options.ddof,
        std_eps=options.eps,
    )


def check_against_oracle(groups: list[list[dict]], options: Options, shaped: pa.Table) -> int:
    """Compare every rollout; returns how many groups could not be compared because the result hangs on a last bit."""
    rows = iter(
        shaped.select(["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]).to_pylist()
    )
    skipped = 0
    for group in groups:
        options.fragile.clear()
        expected = shape_group(group, options)
        found = [next(rows) for _ in group]
        if options.fragile:
            skipped += 1
            continue
        for r, want, got in zip(group, expected, found, strict=True):
            try:
                _check_rollout(want, got, merge=options.estimator in ("grpo_process", "prime"))
            except AssertionError as error:
                raise AssertionError(f"{options}\n{group}\n{r}\nexpected {want}\nfound {got}") from error
    return skipped


def _check_rollout(want: Shaped, got: dict, *, merge: bool) -> None:
    assert got["trainable"] is want.trainable
    if merge:  # equal neighbours are one chunk, and which are equal can hang on the last bit: compare token by token
        for name, values in (("chunk_credits", want.credits), ("chunk_advantages", want.advantages)):
            _check_close(_spread(want.ends, values), _spread(got["chunk_ends"], got[name]), want.size)
    else:
        assert got["chunk_ends"] == want.ends
        _check_close(want.credits, got["chunk_credits"], want.size)
        _check_close(want.advantages, got["chunk_advantages"], want.size)
    assert (got["path_score"] is None) == (want.path is None)
    if want.path is not None:
        _check_close([want.path], [got["path_score"]], want.size)


def _spread(ends: list[int], values: list[float]) -> list[float]:
    return [v for start, end, v in zip([0, *ends], ends, values, strict=False) for _ in range(start, end)]


def _check_close(want: list[float], got: list[float], size: float) -> None:
    assert len(want) == len(got)
    for x, y in zip(want, got, strict=True):
        assert abs(x - y) <= 1e-7 * abs(x) + 1e-13 * size + 1e-45, (x, y)
