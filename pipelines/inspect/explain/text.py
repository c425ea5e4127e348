"""`passrl explain` for people: the arithmetic of one rollout in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from pass_ops.options.methods import METHODS
from pipelines.inspect.chunk_texts import TextDecoder, shortened
from pipelines.inspect.explain.arithmetic import Arithmetic, Chunk
from pipelines.inspect.explain.explanation import Explanation
from pipelines.inspect.explain.pools import Pool
from pipelines.inspect.explain.stream_result import StreamArithmetic
from pipelines.inspect.explain.streams_text import stream_sections
from pipelines.runs.tables import Sheet, numbers, texts

SHOWN_CHUNKS = 40


def explanation_view(explanation: Explanation, *, decoder: TextDecoder, every_chunk: bool = False) -> Group:
    """The whole explanation; of more than SHOWN_CHUNKS chunks only the first and last, unless `every_chunk`.

    decoder: of the chunks' texts, shown whole under `every_chunk` only.
    """
    found = decoder.texts(explanation.token_ids, [chunk.end for chunk in explanation.arithmetic.chunks])
    if found is None:
        said = [""] * len(explanation.arithmetic.chunks)
        return Group(*_sections(explanation, said, every_chunk), Text(f"without the chunks' text: {decoder.why}"))
    return Group(*_sections(explanation, found if every_chunk else [*map(shortened, found)], every_chunk))


def _sections(found: Explanation, said: Sequence[str], every_chunk: bool) -> Iterator[RenderableType]:
    done = found.arithmetic
    rollout = found.rollout
    counting = sum(rollout.mask)
    yield Text(f"{rollout.rollout_id}: {len(rollout.mask)} tokens, {counting} of them count", style="bold")
    yield Text(f"{found.dataset}, part {found.part}; rollout {found.row + 1} of {found.size} in its group")
    if isinstance(done, StreamArithmetic):
        yield Text(_stream_options(found))
    else:
        yield Text(_options(found))
        yield Text(f"{found.options['estimator']}: {METHODS[found.options['estimator']].formula}")
    if found.size != done.group:
        yield Text(
            f"{found.size - done.group} of the group's rollouts lack a signal and are in no pool: G = {done.group}"
        )
    if isinstance(done, Arithmetic):
        yield _pools(done.pools)
        yield from (Text(line) for line in _rewards(found, done))
    if not done.trainable:
        yield Text(f"not trainable: {'; '.join(done.reasons)}. One chunk with credit and advantage 0, no path score")
        yield from (Text(f"signal {name}: {status}") for name, status in found.statuses.items())
    elif isinstance(done, Arithmetic):
        yield _chunk_table(found, done, said, every_chunk)
    else:
        yield from stream_sections(done, said, k=found.options["k"], every_chunk=every_chunk)
    if done.path_score is not None:
        count, k = len(done.chunks), found.options["k"]
        yield Text(
            f"path score = sum of credits / chunks^k = {done.chunks[0].rest.value:.6g} / {count}^{k:g} = "
            f"{done.path_score.value:.6g}; stored {found.stored.path_score:.6g}"
        )
    yield _verdict(found)


def _options(found: Explanation) -> str:
    options = found.options
    weights = ", ".join(f"{name} {value:g}" for name, value in options["weights"].items())
    parts = [f"signal {options['signal']}", f"weights: {weights}"]
    if METHODS[options["estimator"]].divides:
        parts.append(f"k = {options['k']:g}")
        if options["signal"] == "kl" and options["chunk"]:
            parts.append(f"a chunk starts where the group's mean N(score) moved by more than eta = {options['eta']:g}")
        if not options["chunk"]:
            parts.append("chunk = false: every token that counts is a chunk")
    return "; ".join(parts)


def _stream_options(found: Explanation) -> str:
    options = found.options
    cuts = ", ".join(options.get("chunk_by", ())) or "every stream of steps or tokens"
    parts = [f"chunks cut by {cuts}" if options["chunk"] else "chunk = false: every token that counts is a chunk"]
    parts.append(f"eta = {options['eta']:g}")
    divided = f"k = {options['k']:g}: the sum to the end divided by (chunks left)^k"
    parts.append(divided if options.get("divide", True) else "divide = false: a chunk's advantage is its credit")
    return "; ".join(parts)


def _pools(pools: Sequence[Pool]) -> Sheet:
    columns = map(numbers, ("values", "mean", "std", "max |x|"))
    table = Sheet("pool", *columns, "N(x) =", title="Pooled over the group")
    for pool in pools:
        table.add_row(
            pool.name, str(pool.size), *(f"{x:.6g}" for x in (pool.mean, pool.std, pool.largest)), pool_formula(pool)
        )
    return table


def pool_formula(pool: Pool) -> str:
    """N(x) over the pool, written out."""
    if pool.operator == "none":
        return "x"
    if pool.operator == "mean_only":
        return f"x - {pool.mean:.6g}"
    if pool.operator == "leave_one_out":
        n = pool.rollouts
        return f"{n} / {n - 1} * (x - {pool.mean:.6g})" if n > 1 else "0 (no other rollout)"
    if pool.operator == "abs_max":
        return f"x / {pool.largest:.6g}" if pool.largest else "0 (all are 0)"
    if pool.constant:
        return "0 (one value)" if pool.size < 2 else "0 (all are equal)"
    return f"(x - {pool.mean:.6g}) / {pool.std + pool.eps:.6g}"


def _rewards(found: Explanation, done: Arithmetic) -> Iterator[str]:
    weights = found.options["weights"]
    reward = found.rollout.format if found.rollout.format is not None else found.rollout.ok
    for name, raw, standardized in (("outcome", found.rollout.outcome, done.outcome), ("format", reward, done.format)):
        if raw is None or (weights[name] == 0 and standardized is None):
            continue
        verdict = f" ({found.verify_status})" if name == "outcome" and found.verify_status else ""
        text = f"{name} {float(raw):g}{verdict}"
        if standardized is not None:
            text += f" -> N = {standardized:.6g}, times weight {weights[name]:g} = {weights[name] * standardized:.6g}"
        yield text
    if done.gated and done.format is not None:
        total = sum(weights.values())
        yield f"the format failed: every credit is W * N(format) = {total:g} * {done.format:.6g}"


def _chunk_table(found: Explanation, done: Arithmetic, said: Sequence[str], every_chunk: bool) -> Sheet:
    chunks, k = done.chunks, found.options["k"]
    divides = METHODS[found.options["estimator"]].divides
    names = ("score", "process", "rewards", "credit", "to end", *(["left^k"] if divides else []), "A")
    table = Sheet("#", "tokens", texts("text"), *map(numbers, names), "from", title="Chunks")
    cut = not every_chunk and len(chunks) > SHOWN_CHUNKS
    half = SHOWN_CHUNKS // 2
    shown = range(len(chunks))
    for j in [*shown[:half], *shown[-half:]] if cut else shown:
        if cut and j == len(chunks) - half:
            table.add_row("...", "", f"{len(chunks) - SHOWN_CHUNKS} more: --all")
        table.add_row(*_chunk_row(j, chunks[j], said[j], k if divides else None))
    return table


def _chunk_row(j: int, chunk: Chunk, said: str, k: float | None) -> list[str]:
    values = [chunk.score, chunk.process.value, chunk.constant.value, chunk.credit.value, chunk.rest.value]
    if k is not None:
        values.append(chunk.remaining**k)
    values.append(chunk.advantage.value)
    tokens = f"{chunk.start}-{chunk.end - 1}" if chunk.end - chunk.start > 1 else str(chunk.start)
    return [str(j + 1), tokens, said, *("" if x is None else f"{x:.4g}" for x in values), chunk.why]


def _verdict(found: Explanation) -> Text:
    if found.agrees:
        return Text(
            f"The stored values agree with this arithmetic (largest difference {found.largest_difference:.1e}).",
            style="green",
        )
    lines = "\n".join(f"  {line}" for line in found.disagreements[:10])
    more = f"\n  and {len(found.disagreements) - 10} more" if len(found.disagreements) > 10 else ""
    return Text(f"The stored values do NOT agree with this arithmetic:\n{lines}{more}", style="bold red")
