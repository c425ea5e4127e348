"""What `explain` shows of one rollout under streams."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.inspect.explain.measured import StreamPool
from pipelines.inspect.explain.pools import Number


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """One stream that is read, and what its gate does in this rollout.

    transform and after are in words. open: whether every gate is; weight: the configured one; arrives: W, the sum of
    the weights that arrive at it in this rollout.
    """

    name: str
    signal: str
    column: str
    level: str
    transform: str
    operator: str
    pool: str
    after: str
    gate: str
    open: bool
    otherwise: str | None
    weight: float
    arrives: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one stream adds to a chunk's credit, at the chunk's last token that counts.

    raw: the stored value; transformed: before the operator; center and scale: what the operator subtracts and divides
    by there (None as in `StreamPool`); standardized; y: after the transforms that follow; share = weight * y.
    """

    stream: str
    raw: float
    transformed: Number
    center: float | None
    scale: float | None
    standardized: Number
    y: Number
    weight: float
    share: Number


@dataclass(frozen=True, kw_only=True)
class StreamChunk:
    """One chunk. Tokens start..end (exclusive); `token` is its last one that counts; why: what starts it.

    fused: A, the sum of the shares; credit a_j is A, or A standardized by the pool of the fused sum;
    rest = a_j + ... + a_K and advantage = rest / remaining^k. Without Divide-Length the advantage is the credit.
    """

    start: int
    end: int
    token: int
    why: str
    shares: tuple[Share, ...]
    fused: Number
    credit: Number
    rest: Number
    remaining: int
    advantage: Number


@dataclass(frozen=True, kw_only=True)
class StreamArithmetic:
    """What shaping by streams makes of one rollout.

    reasons: why it is not trainable. group: G, the rollouts used in the group. right: whether this one counts as right
    (None where nobody asks). pools: those that this rollout's values are measured against. fused: that of the sum.
    """

    trainable: bool
    reasons: tuple[str, ...]
    group: int
    right: bool | None
    streams: tuple[StreamFacts, ...]
    pools: tuple[StreamPool, ...]
    fused: StreamPool | None
    divides: bool
    chunks: tuple[StreamChunk, ...]
    path_score: Number | None
