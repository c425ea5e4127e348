"""Views of one part as polars frames: a group's rollouts, one rollout's chunks.

Axes: rollouts of a group (G), chunks of a rollout (K).
"""

from __future__ import annotations

from itertools import pairwise

import polars as pl
import pyarrow as pa

from pass_ops.errors import PassError
from pass_ops.shards import open_dataset
from pass_ops.support.nearest import advice
from pipelines.inspect.chunk_texts import texts_of
from pipelines.signals.steps import Decode

REWARD_COLUMNS = ("outcome_reward", "format_reward", "format_ok", "verify_status", "extracted_answer")
_SCORES = "process_scores"


class GroupNotFoundError(PassError, LookupError):
    """The asked group or rollout is not in the part."""


def read_part(url: str, part: int) -> pa.Table:
    """One part of a complete dataset. Raises GroupNotFoundError where it has no such part."""
    dataset = open_dataset(url)
    if not 0 <= part < len(dataset.parts):
        raise GroupNotFoundError(f"{url} has no part {part}; its parts are 0 to {len(dataset.parts) - 1}")
    return dataset.read_part(part)


def group_summary(part: pa.Table) -> pl.DataFrame:
    """One row a group of a part: rollouts, mean length, mean rewards where there are any."""
    frame = _frame(part)
    key = (
        "group_id"
        if "group_id" in frame.columns
        else pl.col("rollout_id").str.replace(r"/[^/]*$", "").alias("group_id")
    )
    rewards = [name for name in _rewards(frame) if name.endswith("_reward")]
    numeric = [name for name in (*rewards, "path_score") if name in frame.columns]
    counts = [pl.len().alias("rollouts")]
    if "token_ids" in frame.columns:
        counts.append(pl.col("token_ids").list.len().mean().alias("mean_length"))
    return frame.group_by(key, maintain_order=True).agg(*counts, *(pl.col(name).mean() for name in numeric))


def group_table(part: pa.Table, group: str | None = None) -> pl.DataFrame:
    """One row a rollout of one group (default: the part's first).

    Columns: sample_index, length (tokens), masked (tokens that do not count), finish_reason, the rewards stored,
    and of a
    shaped part chunks, path_score, the first and last chunk's advantage, trainable; last the text.
    """
    frame = _frame(part)
    chosen = _rows_of(frame, group)
    columns = [pl.col("sample_index")]
    if "token_ids" in frame.columns:
        columns.append(pl.col("token_ids").list.len().alias("length"))
    if "loss_mask" in frame.columns:
        columns.append((pl.col("loss_mask").list.len() - pl.col("loss_mask").list.sum()).alias("masked"))
    columns += [pl.col(name) for name in ("finish_reason", *_rewards(frame)) if name in frame.columns]
    if "chunk_ends" in frame.columns:
        columns += [
            pl.col("chunk_ends").list.len().alias("chunks"),
            pl.col("path_score"),
            pl.col("chunk_advantages").list.first().alias("first_advantage"),
            pl.col("chunk_advantages").list.last().alias("last_advantage"),
            pl.col("trainable"),
        ]
    if "text" in frame.columns:
        columns.append(pl.col("text"))
    return chosen.select(columns)


def rollout_chunks(
    part: pa.Table, group: str | None, sample_index: int, *, decode: Decode | None = None
) -> pl.DataFrame:
    """One row a chunk of one shaped rollout: its token range, raw process score, credit, advantage; given decode, text.

    `score` is the raw process score at the chunk's last token (the step's score for a per-step signal); that of a
    process signal which only streams name is beside it, as NAME_score.
    """
    frame = _frame(part)
    chosen = _rows_of(frame, group).filter(pl.col("sample_index") == sample_index)
    if chosen.is_empty():
        raise GroupNotFoundError(
            f"group {group or 'first'!r} has no rollout with sample_index {sample_index} in this part"
        )
    if "chunk_ends" not in chosen.columns:
        raise GroupNotFoundError("this dataset is not shaped, so it has no chunks; inspect the round's `shaped` folder")
    row = chosen.row(0, named=True)
    ends_K = row["chunk_ends"]
    others = [name.removesuffix(_SCORES) for name in frame.columns if name.endswith(f"_{_SCORES}")]
    return pl.DataFrame(
        {
            "chunk": range(1, len(ends_K) + 1),
            "start": [start for start, _ in pairwise([0, *ends_K])],
            "end": ends_K,
            "score": [_score_at(row, end - 1, "") for end in ends_K],
            **{f"{name}score": [_score_at(row, end - 1, name) for end in ends_K] for name in others},
            "credit": row["chunk_credits"],
            "advantage": row["chunk_advantages"],
            **({} if decode is None else {"text": texts_of(row["token_ids"], ends_K, decode=decode)}),
        },
        schema_overrides={"score": pl.Float32, **{f"{name}score": pl.Float32 for name in others}},
    )


def _rewards(frame: pl.DataFrame) -> list[str]:
    """Columns about a rollout's rewards, of signals that only streams name too, whose columns have that name first."""
    found = [name for name in REWARD_COLUMNS if name in frame.columns]
    return found + [name for name in frame.columns if name.endswith(tuple(f"_{one}" for one in REWARD_COLUMNS))]


def _score_at(row: dict[str, object], token: int, signal: str) -> float | None:
    """signal: "" or NAME_, which the columns of a signal that only streams name begin with."""
    scores, ends = row.get(f"{signal}{_SCORES}"), row.get(f"{signal}process_ends")
    if not isinstance(scores, list):
        return None
    if not isinstance(ends, list):
        return float(scores[token])
    return next((float(score) for score, end in zip(scores, ends, strict=True) if token < end), None)


def _frame(part: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(part)
    assert isinstance(frame, pl.DataFrame)
    if "sample_index" not in frame.columns and "rollout_id" in frame.columns:
        frame = frame.with_columns(pl.col("rollout_id").str.extract(r"/(\d+)$").cast(pl.Int32).alias("sample_index"))
    return frame


def _rows_of(frame: pl.DataFrame, group: str | None) -> pl.DataFrame:
    key = pl.col("group_id") if "group_id" in frame.columns else pl.col("rollout_id").str.replace(r"/[^/]*$", "")
    known = frame.select(key.alias("group_id")).to_series().unique(maintain_order=True).to_list()
    if not known:
        raise GroupNotFoundError("this part holds no rows")
    chosen = known[0] if group is None else group
    if chosen not in known:
        raise GroupNotFoundError(f"group {chosen!r} is not in this part; {advice(chosen, known)}")
    return frame.filter(key == chosen)
