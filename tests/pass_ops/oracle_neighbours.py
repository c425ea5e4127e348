"""The neighbours of PASS once more: plain Python in float64, written from their papers' equations. See `oracle`."""

from __future__ import annotations

import math

from oracle import (
    Options,
    Shaped,
    ends_of,
    format_of,
    live_scores,
    operator,
    outcome_of,
    shape_outcome,
    steps_of,
    unmasked,
)


def shape_rloo(left: list[dict], o: Options) -> list[Shaped | None]:
    """r_i - mean of the others' r (arXiv 2402.14740)."""
    return shape_outcome(left, o, name="leave_one_out")


def shape_dr_grpo(left: list[dict], o: Options) -> list[Shaped | None]:
    """r_i - mean of all r (arXiv 2503.20783)."""
    return shape_outcome(left, o, name="mean_only")


def shape_gdpo(left: list[dict], o: Options) -> list[Shaped | None]:
    """Each reward standardized over the group, then the weighted sum (arXiv 2601.05242)."""
    _, w_out, w_fmt = o.weights
    n_out, g_out = operator(o.standardize[1], [[outcome_of(r, o)] for r in left], o)
    n_fmt, g_fmt = operator(o.standardize[2], [[format_of(r)] for r in left if w_fmt], o)
    shaped: list[Shaped | None] = []
    for r in left:
        if not any(r["mask"]):
            shaped.append(None)
            continue
        a = (w_out * n_out(outcome_of(r, o)) if w_out else 0.0) + (w_fmt * n_fmt(format_of(r)) if w_fmt else 0.0)
        shaped.append(Shaped([len(r["mask"])], [a], [a], None, True, size=abs(w_out) * g_out + abs(w_fmt) * g_fmt))
    return shaped


def shape_prime(left: list[dict], o: Options) -> list[Shaped | None]:
    """Leave-one-out per source, sum, return-to-go, whitening over the group's unmasked tokens (arXiv 2502.01456)."""
    w_prc, w_out, w_fmt = o.weights
    n_prc, g_prc = operator("leave_one_out", [live_scores(r, o) for r in left if w_prc], o)
    n_out, g_out = operator("leave_one_out", [[outcome_of(r, o)] for r in left], o)
    n_fmt, g_fmt = operator("leave_one_out", [[format_of(r)] for r in left if w_fmt], o)
    returns = []
    for r in left:
        lies: list[list[float]] = [[] for _ in r["mask"]]
        if w_prc:
            for score, step in zip(r["scores"], steps_of(r, o), strict=True):
                if any(r["mask"][t] for t in step):
                    lies[step[-1]].append(w_prc * n_prc(score))
        if w_out and lies:
            lies[-1].append(w_out * n_out(outcome_of(r, o)))
        if w_fmt and lies:
            lies[-1].append(w_fmt * n_fmt(format_of(r)))
        returns.append([math.fsum(x for later in lies[t:] for x in later) for t in range(len(lies))])
    pool = [returns[i][t] for i, r in enumerate(left) for t in unmasked(r)]
    summed = max((len(r["mask"]) for r in left), default=0) * abs(w_prc) * g_prc
    summed += abs(w_out) * g_out + abs(w_fmt) * g_fmt
    n, size = operator("masked_norm", [[x] for x in pool], o, entered=summed)
    if len(set(pool)) == 1 and len(pool) > 1 and summed:
        o.fragile.append("returns that are equal, perhaps by rounding")
    return [_changing(r, [n(x) for x in row], size) for r, row in zip(left, returns, strict=True)]


def _changing(r: dict, advantage: list[float], size: float) -> Shaped | None:
    """A chunk starts wherever the advantage changes."""
    chunks: list[list[int]] = []
    for t in unmasked(r):
        if not chunks or advantage[t] != advantage[chunks[-1][-1]]:
            chunks.append([])
        chunks[-1].append(t)
    if not chunks:
        return None
    credits = [advantage[chunk[0]] for chunk in chunks]
    return Shaped(ends_of(chunks, len(r["mask"])), credits, credits, None, True, size=size)
