"""One group: its line in the file's list, and its block.

Axes: rollouts of a group (R), their tokens (N), those that a trainer reads (U).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_values
from pipelines.inspect.stored import verify_column
from pipelines.view.columns import Column
from pipelines.view.explained import Explained
from pipelines.view.payload import TOKEN, Array, block, offsets_of
from pipelines.view.rows import Group, Shaped
from pipelines.view.texts import TokenTexts

_OF_A_ROLLOUT = (
    "rollout_id", "sample_index", "finish_reason", "seed", "verify_status", "extracted_answer", "outcome_reward",
    "format_reward", "format_ok",
)  # fmt: skip
_STATUS, _DETAIL = "status_", "detail_"


def group_line(group: Group) -> dict[str, Any]:
    """The head's GROUP."""
    first = group.shaped[0]
    advantage_U = first.advantage_N[first.learnt_N(group)].astype(np.float64)
    outcomes = outcomes_of(group)
    known = [value for value in outcomes if value is not None]
    tokens_R = group.tokens_R
    some = len(advantage_U) > 0
    return {
        "id": group.name,
        "part": group.place.part,
        "rollouts": len(tokens_R),
        "tokens": int(tokens_R.sum()),
        "outcome": float(np.mean(known)) if known else None,
        "single_outcome": min(known) == max(known) if known else None,
        "verdicts": dict(Counter(filter(None, verdicts_of(group)))),
        "mean_length": float(tokens_R.mean()),
        "shortest": int(tokens_R.min()),
        "longest": int(tokens_R.max()),
        "advantage_min": float(advantage_U.min()) if some else None,
        "advantage_max": float(advantage_U.max()) if some else None,
        "advantage_std": float(advantage_U.std()) if some else None,
        "zero_advantage": float((advantage_U == 0.0).mean()) if some else None,
        "truncated": sum(reason == "length" for reason in _values(group.table, "finish_reason")),
        "untrainable": int((~first.trainable_R).sum()),
        "flips": [int(flipped(group, first, other).sum()) for other in group.shaped],
    }


def flipped(group: Group, one: Shaped, other: Shaped) -> NDArray[np.bool_]:
    """The tokens read under both settings whose advantages have opposite signs."""
    both_N = one.learnt_N(group) & other.learnt_N(group)
    found: NDArray[np.bool_] = both_N & (np.sign(one.advantage_N) * np.sign(other.advantage_N) < 0.0)
    return found


def outcomes_of(group: Group) -> list[float | None]:
    """Each rollout's outcome reward; of streams alone, of the signal that says which are right."""
    name = _verdict_column(group)
    return _values(group.table, name.removesuffix("verify_status") + "outcome_reward" if name else "outcome_reward")


def verdicts_of(group: Group) -> list[str | None]:
    """What the verifier said of each rollout; None where nobody did."""
    return _values(group.table, _verdict_column(group) or "verify_status")


def group_block(
    group: Group,
    *,
    columns: Sequence[Column],
    texts: TokenTexts | None,
    explained: Sequence[Explained | None],
    truth_N: NDArray[np.float32] | None = None,
) -> bytes:
    """The group's block.

    texts: None where the tokenizer is not known. explained: of each setting, None where it is left out. truth_N: A* of
    each token.
    """
    answer = _values(group.table, "answer")[0]
    head = {
        "group_id": group.name,
        "answer": None if answer is None else str(answer),
        "rollouts": list(_rollouts(group, with_text=texts is None)),
        "settings": [
            {"rows": _setting_rows(one), "explain": found.head if found else None}
            for one, found in zip(group.shaped, explained, strict=True)
        ],
    }
    truth = () if truth_N is None else (Array("truth", TOKEN, truth_N),)
    arrays = (
        offsets_of(TOKEN, group.tokens_R),
        Array("loss_mask", TOKEN, group.mask_N.astype(np.uint8)),
        *_texts(group, texts),
        *(array for column in columns for array in column.arrays(group)),
        *(array for number, one in enumerate(group.shaped) for array in _chunks(one, number)),
        *(array for number, found in enumerate(explained) if found for array in found.payload(number)),
        *truth,
    )
    return block(head, arrays)


def _texts(group: Group, texts: TokenTexts | None) -> Iterator[Array]:
    token_ids = list_values(group.table["token_ids"]).astype(np.int32)
    if texts is None:
        yield Array("token_ids", TOKEN, token_ids)
        return
    content, lengths_N, special_N = texts.of(token_ids)
    yield Array("text", None, np.frombuffer(content, np.uint8))
    yield Array("text_lengths", TOKEN, lengths_N)
    yield Array("special", TOKEN, special_N)
    prompt = _values(group.table.slice(0, 1), "prompt_token_ids")[0]
    if prompt is not None:
        yield Array("prompt", None, np.frombuffer(texts.of(np.array(prompt, np.int32))[0], np.uint8))


def _chunks(shaped: Shaped, number: int) -> Iterator[Array]:
    axis = f"chunk/{number}"
    yield offsets_of(axis, shaped.chunks_R)
    yield Array(f"chunk_ends/{number}", axis, list_values(shaped.table["chunk_ends"]).astype(np.int32))
    for name in ("chunk_credits", "chunk_advantages"):
        yield Array(f"{name}/{number}", axis, list_values(shaped.table[name]).astype(np.float32))


def _setting_rows(shaped: Shaped) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = shaped.table.select(["trainable", "path_score"]).to_pylist()
    return rows


def _rollouts(group: Group, *, with_text: bool) -> Iterator[dict[str, Any]]:
    names = group.table.column_names
    statuses = [name for name in names if name.startswith(_STATUS)]
    further = [name for name in names if name.endswith("_reward") and name not in _OF_A_ROLLOUT]
    wanted = [*_OF_A_ROLLOUT, *statuses, *further, *(name for name in names if name.startswith(_DETAIL)), "text"]
    rows = group.table.select([name for name in wanted if name in names]).to_pylist()
    length_R = group.tokens_R.tolist()
    masked_R = np.bincount(group.row_N, weights=~group.mask_N, minlength=len(length_R)).astype(int).tolist()
    of_rows = zip(rows, length_R, masked_R, verdicts_of(group), outcomes_of(group), strict=True)
    for row, length, masked, verdict, outcome in of_rows:
        yield {
            **{name: row.get(name) for name in _OF_A_ROLLOUT},
            "verify_status": verdict,
            "outcome_reward": outcome,
            "length": length,
            "masked": masked,
            "rewards": {name: row[name] for name in further if row[name] is not None},
            "statuses": {name.removeprefix(_STATUS): _status(row, name) for name in statuses if row[name] != "ok"},
            **({"text": row.get("text")} if with_text else {}),
        }


def _status(row: dict[str, Any], name: str) -> str:
    return "; ".join(filter(None, [row[name], row.get(name.replace(_STATUS, _DETAIL, 1))]))


def _verdict_column(group: Group) -> str | None:
    return verify_column(group.table.column_names, group.shaped[0].setting.config)


def _values(table: pa.Table, name: str) -> list[Any]:
    """A column's values; None for each row where there is none of the name."""
    found: list[Any] = table[name].to_pylist() if name in table.column_names else [None] * len(table)
    return found
