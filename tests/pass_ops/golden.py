"""Rollouts as small literals, and what `shape` makes of groups of them, for the goldens worked by hand."""

from __future__ import annotations

import pytest
from cases import to_table

from pass_ops import ShapingConfig, Weights, shape

PROCESS_ONLY = Weights(process=1.0, outcome=0.0, format=0.0)
OUTCOME_ONLY = Weights(process=0.0, outcome=1.0, format=0.0)
T, F = True, False


def steps(scores, ends, *, mask=None, **rewards):
    """A rollout with one score per step."""
    return {"mask": [T] * ends[-1] if mask is None else mask, "scores": scores, "ends": ends, **rewards}


def tokens(scores, *, mask=None, **rewards):
    """A rollout with one score per token."""
    return {"mask": [T] * len(scores) if mask is None else mask, "scores": scores, **rewards}


def shaped(*groups, **options):
    return shape(to_table(list(groups)), ShapingConfig(**options))


def credits(*groups, **options):
    return shaped(*groups, **options)["chunk_credits"].to_pylist()


def ends(*groups, **options):
    return shaped(*groups, **options)["chunk_ends"].to_pylist()


def approx(expected):
    return [pytest.approx(row, rel=2e-7, abs=1e-12) for row in expected]
