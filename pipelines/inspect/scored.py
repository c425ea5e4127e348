"""Which columns of a table hold a score for each step or token, and which of them padding is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pass_ops import ShapingConfig
from pass_ops.reading.stream_sources import plan

PROCESS, SCORES, ENDS = "process_scores", "_scores", "_ends"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """ends: column with a score a step or token -> that of the steps' ends, None for a score a token. column: the one
    whose steps are added and whose score is asked about; process_scores where there is no other.
    """

    ends: Mapping[str, str | None] = field(default_factory=dict)
    column: str = PROCESS

    @property
    def steps_end(self) -> str | None:
        """The column that says where its steps end; None where a step is one token."""
        return self.ends.get(self.column)


def scored_columns(table: pa.Table, config: ShapingConfig | None = None) -> Scored:
    """Every column of process scores; where the configuration has streams, those that they read.

    Of several streams the one of process_scores is asked about, or else the first by name that has a weight. Raises
    what `shape` does where a stream's column is missing.
    """
    if config is None or config.streams is None:
        names = [name for name in table.column_names if name.endswith(SCORES)]
        ends = {name: name.removesuffix(SCORES) + ENDS for name in names}
        return Scored(ends={name: end if end in table.column_names else None for name, end in ends.items()})
    streams, sources = config.streams, plan(table, config).sources
    by_weight = sorted(sources, key=lambda name: (streams[name].weight == 0.0, name))
    found = {sources[name].values: sources[name].ends for name in by_weight if sources[name].level != "rollout"}
    return Scored(ends=found, column=PROCESS if PROCESS in found else next(iter(found), PROCESS))
