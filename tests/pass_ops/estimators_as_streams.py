"""Section 10 of docs/spec/streams.md: what streams each of today's estimators is, in the options of the oracles."""

from __future__ import annotations

from dataclasses import replace

import oracle
from oracle_streams import Fused, Options, Stream, Table

NAMES = {
    "scores": ("process_scores", "numbers"),
    "ends": ("process_ends", "ends"),
    "outcome": ("outcome_reward", "number"),
    "format": ("format_reward", "number"),
    "ok": ("format_ok", "bool"),
}
FUSED = ("masked_norm", "abs_max", "mean_only")
ROWS = ("pass", "reward_shaping", "gdpo", "grpo_outcome", "rloo", "dr_grpo", "grpo_process", "prime")
WITH_CHUNKS = ("pass", "reward_shaping")


def as_table(groups: list[list[dict]]) -> Table:
    """The groups of the first oracle as the second takes them."""
    rows = [r for group in groups for r in group]
    keys = [key for key in NAMES if rows and key in rows[0]]
    made = [[{"mask": r["mask"], **{NAMES[key][0]: r[key] for key in keys}} for r in group] for group in groups]
    return Table(made, dict(NAMES[key] for key in keys))


def has_row(o: oracle.Options, groups: list[list[dict]]) -> bool:
    """Whether these options have streams that give the same.

    `reward_shaping` with a process weight of 0 pools one value a step, streams one a rollout. `grpo_process` then makes
    rollouts without process values not trainable, streams do not read them. Fused sums know no leave_one_out.
    """
    streams = as_streams(o, gated=False).streams if o.estimator != "pass" else {"process": None}
    if not streams:
        return False
    if o.estimator == "reward_shaping":
        return o.weights[0] != 0 and o.standardize[0] in FUSED
    if o.estimator == "grpo_outcome":
        return o.standardize[1] in FUSED
    if o.estimator == "grpo_process" and o.weights[0] == 0:
        return all(r[name] is not None for group in groups for r in group for name in ("scores", "ends") if name in r)
    return True


def as_streams(o: oracle.Options, *, gated: bool) -> Options:
    rest = Options({}, k=o.k, eta=o.eta, chunk=o.chunk, ddof=o.ddof, eps=o.eps)
    three = {
        name: Stream(name, weight=weight, operator=operator)
        for name, weight, operator in zip(("process", "outcome", "format"), o.weights, o.standardize, strict=True)
    }
    if o.estimator == "pass":
        return replace(rest, streams=_gate(three) if gated else _left({"process"}, three), chunk_by=("process",))
    without = replace(rest, divide=False)
    if o.estimator == "reward_shaping":
        return _reward_shaping(replace(rest, fused=Fused(o.standardize[0])), three, o)
    if o.estimator == "grpo_process":
        streams = _with(three, pool="joint", operator=o.standardize[0])
        return replace(without, streams=_left(set(), _returns(streams)), chunk=False)
    if o.estimator == "prime":
        streams = _left(set(), _returns(_with(three, operator="leave_one_out")))
        return replace(without, streams=streams, chunk=False, fused=Fused("masked_norm", per="token"))
    rewards = _left(set(), {name: three[name] for name in ("outcome", "format")})
    if o.estimator == "gdpo":
        return replace(without, streams=rewards)
    if o.estimator == "grpo_outcome":
        return replace(without, streams=_with(rewards, operator="none"), fused=Fused(o.standardize[1]))
    return replace(
        without, streams=_with(rewards, operator={"rloo": "leave_one_out", "dr_grpo": "mean_only"}[o.estimator])
    )


def _with(streams: dict[str, Stream], **changes: str) -> dict[str, Stream]:
    return {name: replace(stream, **changes) for name, stream in streams.items()}


def _left(named: set[str], streams: dict[str, Stream]) -> dict[str, Stream]:
    """Without those of weight 0 that nothing names."""
    return {name: stream for name, stream in streams.items() if stream.weight != 0 or name in named}


def _gate(three: dict[str, Stream]) -> dict[str, Stream]:
    gated = {name: replace(three[name], gate="format", otherwise="format") for name in ("process", "outcome")}
    return _left({"process", "format"}, {**gated, "format": three["format"]})


def _returns(streams: dict[str, Stream]) -> dict[str, Stream]:
    return {**streams, "process": replace(streams["process"], after=(("return_to_go", {}),))}


def _reward_shaping(options: Options, three: dict[str, Stream], o: oracle.Options) -> Options:
    streams = _left(set(), _with(three, operator="none"))
    if o.signal == "prm":
        return replace(options, streams=streams, chunk_by=("process",))
    trace = Stream("process", weight=0.0, operator=o.standardize[0])
    return replace(options, streams={**streams, "trace": trace}, chunk_by=("trace",))
