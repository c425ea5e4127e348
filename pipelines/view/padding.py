"""Padding that is really there: steps of a stored rollout that say nothing new.

Axes: tokens of one rollout (T).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pass_ops.reading.ragged import list_values
from pipelines.view.columns import Column
from pipelines.view.rows import Group
from pipelines.view.texts import TokenTexts

_SHOWN = 60


@dataclass(frozen=True)
class Pieces:
    """How a rollout is cut for comparison. ends: the column of a signal's steps; None: lines. texts: of the tokens."""

    ends: str | None
    texts: TokenTexts

    def cut(self, group: Group, row: int) -> list[tuple[int, int, str]]:
        """First token, token after the last, and text of each piece of a rollout."""
        span = group.span(row)
        content, lengths_T, special_T = self.texts.of(list_values(group.table["token_ids"])[span].astype(np.int32))
        at = [0, *np.cumsum(lengths_T).tolist()]
        pieces = [content[first:last] for first, last in pairwise(at)]
        ends = group.table[self.ends][row].as_py() if self.ends is not None else None
        if ends is None:
            body = int(np.flatnonzero(special_T == 0).max(initial=-1)) + 1  # an end token belongs to the last line
            ends = [t + 1 for t, piece in enumerate(pieces) if b"\n" in piece and t + 1 < body] + [len(pieces)]
        said = [b"" if special else piece for piece, special in zip(pieces, special_T.tolist(), strict=True)]
        return [
            (start, end, b"".join(said[start:end]).decode("utf-8", "replace").strip())
            for start, end in pairwise([0, *ends])
        ]


def pieces_of(columns: Sequence[Column], texts: TokenTexts | None) -> Pieces | None:
    """Steps of the first signal that has some, else lines; None where nobody knows the tokens' texts."""
    if texts is None:
        return None
    return Pieces(next((column.ends for column in columns if column.ends is not None), None), texts)


def padding(pieces: Pieces, group: Group, row: int) -> Iterator[tuple[int, int, str]]:
    """Runs of neighbouring pieces that are blank or were said before: first token, token after the last, what it is."""
    seen: set[str] = set()
    run: tuple[int, int, list[str]] | None = None
    for start, end, text in pieces.cut(group, row):
        if text and text not in seen:
            seen.add(text)
            if run is not None:
                yield run[0], run[1], _called(run[2])
            run = None
        else:
            run = (start, end, [text]) if run is None else (run[0], end, [*run[2], text])
    if run is not None:
        yield run[0], run[1], _called(run[2])


def _called(texts: Sequence[str]) -> str:
    said = next(filter(None, texts), "")
    if not said:
        return "blank text"
    shown = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
    return f"{len(texts)} repeated: {shown}" if len(texts) > 1 else f"a repeated step: {shown}"
