"""What the oracle of streams takes, turned into what `shape` takes, and both results compared."""

from __future__ import annotations

import math

import numpy as np
import oracle_streams as oracle
import pyarrow as pa
import pytest
from bounded import Bounded, U
from oracle_streams import Options, Shaped, Table

import pass_ops
from pass_ops.errors import OutputOverflowError

TYPES = {
    "number": pa.float32(),
    "bool": pa.bool_(),
    "numbers": pa.list_(pa.float32()),
    "ends": pa.list_(pa.int32()),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "whole": pa.int64(),
    "wholes": pa.list_(pa.int64()),
}
MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
MOST = float(np.finfo(np.float32).max)
LOOSE = 1e-6  # of a group's largest result: beyond, its rounding may be too large to compare anything


def to_table(table: Table) -> pa.Table:
    """One row a rollout."""
    rows = [(g, i, r) for g, group in enumerate(table.groups) for i, r in enumerate(group)]
    columns = {
        "rollout_id": pa.array([f"g{g}/{i}" for g, i, _ in rows], pa.string()),
        "group_id": pa.array([f"g{g}" for g, _, _ in rows], pa.string()),
        "loss_mask": pa.array([r["mask"] for _, _, r in rows], pa.list_(pa.bool_())),
    }
    for name, kind in table.columns.items():
        columns[name] = pa.array([r[name] for _, _, r in rows], TYPES[kind])
    return pa.table(columns)


def to_stream(stream: oracle.Stream) -> pass_ops.Stream:
    def chain(transforms):
        return tuple(pass_ops.Transform(name, **options) if options else name for name, options in transforms)

    return pass_ops.Stream(
        signal=stream.signal,
        weight=stream.weight,
        transform=chain(stream.transform),
        operator=stream.operator,
        pool=stream.pool,
        key=stream.key,
        after=chain(stream.after),
        gate=stream.gate,
        otherwise=stream.otherwise,
    )


def to_config(o: Options) -> pass_ops.ShapingConfig:
    fused = o.fused and pass_ops.Fused(operator=o.fused.operator, pool=o.fused.pool, per=o.fused.per)
    return pass_ops.ShapingConfig(
        streams={name: to_stream(stream) for name, stream in o.streams.items()},
        right=o.right,
        right_above=o.right_above,
        fused=fused,
        chunk_by=o.chunk_by,
        divide=o.divide,
        k=o.k,
        eta=o.eta,
        chunk=o.chunk,
        std_ddof=o.ddof,
        std_eps=o.eps,
    )


def check(table: Table, o: Options) -> int:
    """Compare every rollout; returns how many groups were left out because rounding decides their result."""
    expected = oracle.shape_table(table, o)
    if any(beyond(shaped) for shaped in expected):
        with pytest.raises(OutputOverflowError):
            pass_ops.shape(to_table(table), to_config(o))
        return len(expected)
    try:
        found = iter(pass_ops.shape(to_table(table), to_config(o)).select(MADE).to_pylist())
    except OutputOverflowError:
        assert None in expected  # a doubtful group may be the one that is beyond float32
        return len(expected)
    left_out = 0
    for group, shaped in zip(table.groups, expected, strict=True):
        got = [next(found) for _ in group]
        if shaped is None or too_loose(shaped):
            left_out += 1
            continue
        slack = 8 * U * largest_of(shaped)
        for i, (r, one) in enumerate(zip(group, shaped, strict=True)):
            try:
                check_rollout(one, got[i], slack)
            except AssertionError as error:
                message = f"{o}\n{table.columns}\n{group}\nrollout {i}: {r}\nexpected {one}\nfound {got[i]}"
                raise AssertionError(message) from error
    return left_out


def numbers(one: Shaped) -> list[Bounded]:
    return [*one.credits, *one.advantages, *([one.path] if one.path else [])]


def beyond(shaped: list[Shaped] | None) -> bool:
    return any(abs(a.x) - a.err > MOST for one in shaped or [] for a in numbers(one))


def too_loose(shaped: list[Shaped]) -> bool:
    largest = largest_of(shaped)
    return largest > 0.99 * MOST or any(a.err > LOOSE * largest for one in shaped for a in numbers(one))


def largest_of(shaped: list[Shaped]) -> float:
    return max((abs(a.x) for one in shaped for a in numbers(one)), default=0.0)


def check_rollout(want: Shaped, got: dict, slack: float) -> None:
    assert got["trainable"] is want.trainable
    assert got["chunk_ends"] == want.ends
    check_close(want.credits, got["chunk_credits"], slack)
    check_close(want.advantages, got["chunk_advantages"], slack)
    assert (got["path_score"] is None) == (want.path is None)
    if want.path is not None:
        check_close([want.path], [got["path_score"]], slack)


def check_close(want: list[Bounded], got: list[float], slack: float) -> None:
    """The rounding to float32, half a unit in the last place, and what float64 may move.

    That is what another order of sums does, and some units of the group's largest result (`slack`): a mean that the
    oracle finds to be exactly 0 may be taken about another origin and be 1e-17.
    """
    assert len(want) == len(got)
    for a, y in zip(want, got, strict=True):
        assert math.isfinite(y)
        assert abs(a.x - y) <= 2**-24 * abs(a.x) + 2**-150 + 2 * a.err + slack, (a, y)
