"""The columns of a shaped dataset that have a value a token or a step, as the page shows them.

Axes: rollouts of a group (R), their tokens (N).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards.schemas import TOKEN_STATISTICS
from pipelines.inspect.scored import scored_columns
from pipelines.view.payload import TOKEN, Array, offsets_of
from pipelines.view.rows import Group

BEHAVIOR, LOGPROBS = "behavior_logprobs", "_logprobs"
_UNITS = {"logprob": "nats", "score": "", "statistic": "nats", "truth": ""}


@dataclass(frozen=True)
class Column:
    """One such column. ends: the column that says where its steps end; None: it has a value a token.

    kind: logprob, score, statistic or truth.
    """

    name: str
    kind: str
    ends: str | None = None

    @property
    def axis(self) -> str:
        """What one of its values is of, as the payload says it."""
        return TOKEN if self.ends is None else f"step/{self.name}"

    @property
    def plain(self) -> dict[str, Any]:
        """The head's COLUMN."""
        unit = "" if self.name == "sum_pi_squared" else _UNITS[self.kind]
        return {
            "name": self.name, "axis": self.axis, "kind": self.kind, "label": self.name.replace("_", " "), "unit": unit,
        }  # fmt: skip

    def arrays(self, group: Group) -> Iterator[Array]:
        """Its values in a group. A token column is NaN throughout a rollout whose list is null."""
        column = group.table[self.name]
        if self.ends is not None:
            yield offsets_of(self.axis, list_lengths(column))
            yield Array(self.name, self.axis, list_values(column).astype(np.float32))
            yield Array(f"ends:{self.name}", self.axis, list_values(group.table[self.ends]).astype(np.int32))
            return
        yield Array(self.name, TOKEN, token_values(group, self.name))


def token_values(group: Group, name: str) -> NDArray[np.float32]:
    """A column's values, one a token; NaN throughout a rollout whose list is null."""
    column = group.table[name]
    has_N = (list_lengths(column) == group.tokens_R)[group.row_N]
    found = np.full(len(has_N), np.nan, np.float32)
    found[has_N] = list_values(column)
    return found


def shown_columns(table: pa.Table) -> tuple[Column, ...]:
    """Log-probs, the sampler's first; token statistics; scores. table: may be empty; its columns decide."""
    names = table.column_names
    logprobs = [name for name in names if name.endswith(LOGPROBS) and pa.types.is_list(table[name].type)]
    scores = scored_columns(table).ends
    return (
        *(Column(name, "logprob") for name in sorted(logprobs, key=lambda name: name != BEHAVIOR)),
        *(Column(name, "statistic") for name in TOKEN_STATISTICS.names if name in names),
        *(Column(name, "score", ends) for name, ends in scores.items() if pa.types.is_list(table[name].type)),
    )
