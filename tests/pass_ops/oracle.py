"""The method once more: slow, plain Python in float64, written from its description and from nothing in pass_ops.

A rollout is a dict: mask (list of bool), scores, ends (prm only), outcome, format, ok (format indicator); a missing
value is None, and a table without a column has no key of that name in any rollout. `shape_group` takes the rollouts of
one group and returns one Shaped each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Shaped:
    ends: list[int]
    credits: list[float]
    advantages: list[float]
    path: float | None
    trainable: bool
    size: float = 0.0  # what entered the sums, in magnitude: rounding errors are measured against it


@dataclass
class Options:
    estimator: str = "pass"
    signal: str = "prm"
    standardize: tuple[str, str, str] = ("masked_norm", "masked_norm", "masked_norm")
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    k: float = 0.7
    eta: float = 1e-8
    chunk: bool = True
    ddof: int = 1
    eps: float = 1e-6
    fragile: list[str] = field(default_factory=list)  # why a result hangs on the last bit of a sum, if it does


def shape_group(rollouts: list[dict], options: Options) -> list[Shaped]:
    import oracle_neighbours  # it builds on this file

    left = [r for r in rollouts if not has_null(r, options)]
    shape = {
        "pass": shape_pass,
        "reward_shaping": shape_rewards,
        "grpo_process": shape_process,
        "grpo_outcome": shape_outcome,
        "rloo": oracle_neighbours.shape_rloo,
        "dr_grpo": oracle_neighbours.shape_dr_grpo,
        "gdpo": oracle_neighbours.shape_gdpo,
        "prime": oracle_neighbours.shape_prime,
    }[options.estimator]
    done = iter(shape(left, options))
    shaped = []
    for r in rollouts:
        result = None if has_null(r, options) else next(done)
        if result is None or not any(r["mask"]):
            length = len(r["mask"])
            shaped.append(Shaped([length] if length else [], [0.0] * bool(length), [0.0] * bool(length), None, False))
        else:
            shaped.append(result)
    return shaped


# --- what is missing ---------------------------------------------------------------------------------------------


def has_null(r: dict, o: Options) -> bool:
    if reads_process(o) and (r["scores"] is None or (o.signal == "prm" and r["ends"] is None)):
        return True
    if o.weights[1] != 0 and r["outcome"] is None:
        return True
    gated = o.estimator == "pass" and "ok" in r
    if gated and r["ok"] is None:
        return True
    if gated or o.weights[2] != 0:
        return (r["format"] if "format" in r else r["ok"]) is None
    return False


def reads_process(o: Options) -> bool:
    if o.estimator == "prime":
        return o.weights[0] != 0
    return o.estimator in ("pass", "reward_shaping", "grpo_process")


def outcome_of(r: dict, o: Options) -> float:
    return r["outcome"] if o.weights[1] != 0 else 0.0


def format_of(r: dict) -> float:
    return r["format"] if "format" in r else float(r["ok"])


# --- operators ---------------------------------------------------------------------------------------------------


def operator(name: str, values: list[list[float]], o: Options, entered: float = 0.0):
    """The function x -> N(x; pool), and how large its result would be if what `entered` the pool had not cancelled.

    The pool are the values of some rollouts, one list each.
    """
    pool = [x for row in values for x in row]
    largest = max((abs(x) for x in pool), default=0.0)
    entered = max(entered, largest)
    if name == "none" or not pool:
        return (lambda x: x), entered
    if name == "leave_one_out":
        means = [math.fsum(row) / len(row) for row in values if row]
        n = len(means)
        baseline = math.fsum(means) / n
        return (lambda x: n / (n - 1) * (x - baseline) if n > 1 else 0.0), (n / (n - 1) * entered if n > 1 else 0.0)
    if name == "abs_max":
        if largest < 1e-9 * entered:
            o.fragile.append("a pool that is zero but for rounding")
        return (lambda x: x / largest if largest > 0 else 0.0), entered / largest if largest > 0 else 0.0
    mean = math.fsum(pool) / len(pool)
    if name == "mean_only":
        return (lambda x: x - mean), entered
    assert name == "masked_norm"
    if len(pool) == 1 or len(set(pool)) == 1:
        return (lambda x: 0.0), 0.0
    spread = max(pool) - min(pool)
    if spread < 1e-9 * entered:
        o.fragile.append("a pool that is equal but for rounding")
    # Scaled, so that the squares of tiny values do not vanish.
    std = spread * math.sqrt(math.fsum(((x - mean) / spread) ** 2 for x in pool) / (len(pool) - o.ddof))
    return (lambda x: (x - mean) / (std + o.eps)), entered / (std + o.eps)


# --- steps -------------------------------------------------------------------------------------------------------


def steps_of(r: dict, o: Options) -> list[range]:
    """The token ranges that have a score each."""
    ends = r["ends"] if o.signal == "prm" else range(1, len(r["mask"]) + 1)
    starts = [0, *ends][:-1]
    return [range(a, b) for a, b in zip(starts, ends, strict=True)]


def live_scores(r: dict, o: Options) -> list[float]:
    return [s for s, step in zip(r["scores"], steps_of(r, o), strict=True) if any(r["mask"][t] for t in step)]


def step_at(r: dict, o: Options) -> list[int]:
    """For each token the number of its step."""
    return [j for j, step in enumerate(steps_of(r, o)) for _ in step]


def unmasked(r: dict) -> list[int]:
    return [t for t, counts in enumerate(r["mask"]) if counts]


# --- chunks ------------------------------------------------------------------------------------------------------


def chunk_bounds(r: dict, group_trace: tuple[list[float], float], o: Options) -> list[list[int]]:
    """The unmasked tokens of each chunk."""
    if not o.chunk:
        return [[t] for t in unmasked(r)]
    step = step_at(r, o)
    trace, gauge = group_trace if o.signal == "kl" else ([r["scores"][j] for j in step], 0.0)
    chunks: list[list[int]] = []
    value = 0.0
    for t in unmasked(r):
        moved = abs(trace[t] - value)
        if chunks and abs(moved - o.eta) <= 2e-15 * gauge:
            o.fragile.append("a trace that moves by eta")
        if not chunks or moved > o.eta or (o.signal == "prm" and step[t] != step[chunks[-1][-1]]):
            chunks.append([])
            value = trace[t]
        chunks[-1].append(t)
    return chunks


def trace_of(left: list[dict], o: Options) -> tuple[list[float], float]:
    """The trace of a group under `kl`, and how large it would be if nothing had cancelled."""
    if o.signal == "prm":
        return [], 0.0
    n, gauge = operator(o.standardize[0], [live_scores(r, o) for r in left], o)
    trace = []
    for t in range(max((len(r["mask"]) for r in left), default=0)):
        there = [r["scores"][t] for r in left if t < len(r["mask"]) and r["mask"][t]]
        trace.append(math.fsum(n(s) for s in there) / len(left))
    return trace, gauge


def ends_of(chunks: list[list[int]], length: int) -> list[int]:
    return [*(chunk[0] for chunk in chunks[1:]), length]


# --- estimators --------------------------------------------------------------------------------------------------


def divided(
    r: dict, trace: tuple[list[float], float], o: Options, advantage: list[float | None], gauge: float
) -> Shaped:
    chunks = chunk_bounds(r, trace, o)
    credits = [advantage[chunk[-1]] for chunk in chunks]
    count = len(credits)
    togo = [math.fsum(credits[j:]) for j in range(count)]
    return Shaped(
        ends_of(chunks, len(r["mask"])),
        credits,
        [g / (count - j) ** o.k for j, g in enumerate(togo)],
        togo[0] / count**o.k,
        True,
        size=count * gauge,
    )


def shape_pass(left: list[dict], o: Options) -> list[Shaped | None]:
    w_prc, w_out, w_fmt = o.weights
    gated = any("ok" in r for r in left)
    total = w_prc + w_out + w_fmt
    n_prc, g_prc = operator(o.standardize[0], [live_scores(r, o) for r in left], o)
    n_out, g_out = operator(o.standardize[1], [[outcome_of(r, o)] for r in left], o)
    n_fmt, g_fmt = operator(o.standardize[2], [[format_of(r)] for r in left if gated or w_fmt], o)
    gauge = abs(w_prc) * g_prc + abs(w_out) * g_out + max(abs(w_fmt), abs(total)) * g_fmt
    trace = trace_of(left, o)
    shaped: list[Shaped | None] = []
    for r in left:
        if not any(r["mask"]):
            shaped.append(None)
            continue
        fmt = n_fmt(format_of(r)) if gated or w_fmt else 0.0
        out = n_out(outcome_of(r, o)) if w_out else 0.0
        advantage: list[float | None] = []
        for t, j in enumerate(step_at(r, o)):
            if not r["mask"][t]:
                advantage.append(None)
            elif gated and not r["ok"]:
                advantage.append(total * fmt)
            else:
                advantage.append(w_prc * n_prc(r["scores"][j]) + w_out * out + w_fmt * fmt)
        shaped.append(divided(r, trace, o, advantage, gauge))
    return shaped


def shape_rewards(left: list[dict], o: Options) -> list[Shaped | None]:
    w_prc, w_out, w_fmt = o.weights

    def total(r: dict, score: float) -> float:
        return w_prc * score + w_out * outcome_of(r, o) + (w_fmt * format_of(r) if w_fmt else 0.0)

    live = [(r, s) for r in left for s in live_scores(r, o)]
    pools = [[total(r, s) for s in live_scores(r, o)] for r in left]
    entered = max((abs(x) for r, s in live for x in (w_prc * s, w_out * outcome_of(r, o), total(r, 0.0))), default=0.0)
    n, gauge = operator(o.standardize[0], pools, o, entered)
    terms = {(w_prc * s, w_out * outcome_of(r, o), w_fmt * format_of(r) if w_fmt else 0.0) for r, s in live}
    equal = {len({a + b + c for a, b, c in terms}) == 1, len({a + (b + c) for a, b, c in terms}) == 1}
    if o.standardize[0] == "masked_norm" and len(equal) > 1:
        o.fragile.append("sums that are equal or not by the order of additions")
    trace = trace_of(left, o)
    shaped: list[Shaped | None] = []
    for r in left:
        if not any(r["mask"]):
            shaped.append(None)
            continue
        step = step_at(r, o)
        advantage = [n(total(r, r["scores"][step[t]])) if r["mask"][t] else None for t in range(len(step))]
        shaped.append(divided(r, trace, o, advantage, gauge))
    return shaped


def shape_process(left: list[dict], o: Options) -> list[Shaped | None]:
    w_prc, w_out, w_fmt = o.weights
    pools = [
        (live_scores(r, o) if w_prc else []) + ([outcome_of(r, o)] if w_out else []) + ([format_of(r)] if w_fmt else [])
        for r in left
    ]
    n, gauge = operator(o.standardize[0], pools, o)
    shaped: list[Shaped | None] = []
    for r in left:
        if not any(r["mask"]):
            shaped.append(None)
            continue
        length = len(r["mask"])
        lies: list[list[float]] = [[] for _ in range(length)]
        for score, step in zip(r["scores"], steps_of(r, o), strict=True):
            if w_prc and any(r["mask"][t] for t in step):
                lies[step[-1]].append(w_prc * n(score))
        if w_out:
            lies[-1].append(w_out * n(outcome_of(r, o)))
        if w_fmt:
            lies[-1].append(w_fmt * n(format_of(r)))
        advantage = {t: math.fsum(x for later in lies[t:] for x in later) for t in unmasked(r)}
        chunks: list[list[int]] = []
        for t in unmasked(r):
            if not chunks or advantage[t] != advantage[chunks[-1][-1]]:
                chunks.append([])
            chunks[-1].append(t)
        credits = [advantage[chunk[0]] for chunk in chunks]
        size = sum(map(len, lies)) * gauge * max(map(abs, o.weights))
        shaped.append(Shaped(ends_of(chunks, length), credits, credits, None, True, size=size))
    return shaped


def shape_outcome(left: list[dict], o: Options, name: str | None = None) -> list[Shaped | None]:
    _, w_out, w_fmt = o.weights
    sums = [w_out * outcome_of(r, o) + (w_fmt * format_of(r) if w_fmt else 0.0) for r in left]
    entered = max((abs(w_out * outcome_of(r, o)) for r in left), default=0.0)
    n, gauge = operator(name or o.standardize[1], [[x] for x in sums], o, entered)
    return [
        Shaped([len(r["mask"])], [n(x)], [n(x)], None, True, size=gauge) if any(r["mask"]) else None
        for r, x in zip(left, sums, strict=True)
    ]
