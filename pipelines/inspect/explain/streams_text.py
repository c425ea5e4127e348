"""`passrl explain` for people, where streams were shaped: what each adds to each chunk of one rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from pipelines.inspect.explain.measured import StreamPool
from pipelines.inspect.explain.stream_result import StreamArithmetic, StreamChunk, StreamFacts
from pipelines.runs.tables import Sheet, numbers, texts

SHOWN_LINES = 40
CHUNKS = "Chunks: A = the sum of W y"


def stream_sections(
    done: StreamArithmetic, said: Sequence[str], *, k: float, every_chunk: bool
) -> Iterator[RenderableType]:
    """The streams, their pools, and what they add up to at each chunk; of many chunks only the first and last.

    said: the text of each chunk.
    """
    if done.right is not None:
        yield Text(f"this rollout is {'right' if done.right else 'wrong'}")
    yield _streams(done.streams)
    yield _pools([*done.pools, *([done.fused] if done.fused else [])])
    yield _chunks(done, said, k=k, every_chunk=every_chunk)


def _streams(streams: Sequence[StreamFacts]) -> Sheet:
    names = ("stream", "column (level)", "transform", "N(x; pool)", "after", "gate")
    table = Sheet(*names, numbers("weight"), numbers("W here"), title="Streams")
    for one in streams:
        gate = "always" if one.gate == "always" else f"{one.gate}: {'open' if one.open else 'closed'}"
        if not one.open:
            gate += f", weight to {one.otherwise}" if one.otherwise else ", weight lost"
        table.add_row(
            one.name, f"{one.column} ({one.level})", one.transform or "-", f"{one.operator} ({one.pool})",
            one.after or "-", gate, f"{one.weight:g}", f"{one.arrives:g}",
        )  # fmt: skip
    return table


def _pools(pools: Sequence[StreamPool]) -> Sheet:
    columns = map(numbers, ("values", "rollouts", "mean", "std", "max |x|"))
    table = Sheet("pool", *columns, "N(x) =", title="Pools that this rollout is measured against")
    for pool in pools:
        if pool.operator != "none":
            values = (f"{x:.6g}" for x in (pool.mean, pool.std, pool.largest))
            name = f"{pool.stream or 'the sum A'} ({pool.pool})"
            table.add_row(name, str(pool.size), str(pool.rollouts), *values, pool_formula(pool))
    return table


def pool_formula(pool: StreamPool) -> str:
    """N(x) over the pool, written out."""
    if pool.why:
        return f"0 ({pool.why})"
    if pool.operator == "rank":
        return f"2 (rank of x - 1) / {pool.size - 1} - 1"
    shifted = f"x - {pool.center:.6g}" if pool.center else "x"
    return shifted if pool.scale == 1.0 else f"({shifted}) / {pool.scale:.6g}"


def _chunks(done: StreamArithmetic, said: Sequence[str], *, k: float, every_chunk: bool) -> Sheet:
    """A line a chunk and stream: x, transformed, standardized, y, W y; the chunk's first line has its sums."""
    names = ["x", "transf.", "N", "y", "W y", "A", *(["N(A)"] if done.fused else [])]
    names += [*(["to end", "left^k"] if done.divides else []), "advantage"]
    table = Sheet("#", "tokens", texts("text"), "stream", *map(numbers, names), "from", title=CHUNKS)
    half = max(SHOWN_LINES // (2 * max(len(done.streams), 1)), 1)
    cut = not every_chunk and len(done.chunks) > 2 * half
    shown = range(len(done.chunks))
    for j in [*shown[:half], *shown[-half:]] if cut else shown:
        if cut and j == len(done.chunks) - half:
            table.add_row("...", "", f"{len(done.chunks) - 2 * half} more: --all")
        for line in _lines(j, done.chunks[j], said[j], k=k, divides=done.divides, fused=done.fused is not None):
            table.add_row(*line)
    return table


def _lines(j: int, chunk: StreamChunk, said: str, *, k: float, divides: bool, fused: bool) -> Iterator[list[str]]:
    tokens = f"{chunk.start}-{chunk.end - 1}" if chunk.end - chunk.start > 1 else str(chunk.start)
    sums = [chunk.fused.value, *([chunk.credit.value] if fused else [])]
    sums += [chunk.rest.value, chunk.remaining**k] if divides else []
    head = [str(j + 1), tokens, said]
    totals = [*(f"{x:.4g}" for x in (*sums, chunk.advantage.value)), chunk.why]
    for share in chunk.shares:
        values = (share.raw, share.transformed.value, share.standardized.value, share.y.value, share.share.value)
        yield [*head, share.stream, *(f"{x:.4g}" for x in values), *totals]
        head, totals = ["", "", ""], [""] * len(totals)
