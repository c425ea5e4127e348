"""What an estimator of your own sees: one group of rollouts as numpy arrays.

An estimator is a function `(group, config) -> advantages`, named by its import path, `estimator = "module:function"`.
It returns for each rollout, in order, one float array with one advantage per token, or one number for all of its
tokens; values at masked tokens are ignored. Neighbouring tokens of one advantage become one chunk. It must depend on
its arguments alone: groups are shaped in any order, from several threads at once.

>>> def centred_return(group, config):  # what is still to come of the process signal, less the mean outcome
...     advantages = []
...     for mask, scores, ends in zip(group.mask, group.scores, group.ends):
...         rewards = np.zeros(len(mask))
...         rewards[ends - 1] = scores
...         advantages.append(rewards[::-1].cumsum()[::-1] - group.outcome.mean())
...     return advantages
>>> steps = Group(
...     group_id="q", mask=(np.array([True, True, True]),), scores=(np.array([2.0, 1.0]),), ends=(np.array([2, 3]),),
...     live=(np.array([True, True]),), outcome=np.array([0.5]), format=np.array([0.0]),
... )
>>> centred_return(steps, None)
[array([2.5, 2.5, 0.5])]

Every further column of the table is there by name, and read only where it is asked for:

>>> from dataclasses import replace
>>> table = pa.table({"level": [1, 3], "teacher_logprobs": [[-0.5], [-1.0, -2.0]]})
>>> group = replace(steps, table=table, rows=(1,))
>>> group.column("teacher_logprobs"), group.column("level")
((array([-1., -2.]),), (3,))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.errors import MissingColumnError
from pass_ops.support.nearest import advice

Arrays = tuple[NDArray[Any], ...]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G rollouts of a prompt for which every stream in use is present.

    Rollout i has L_i tokens and E_i process scores.

    Attributes:
        group_id: the prompt's id, as the table has it.
        mask: G arrays of L_i bools, True where the token counts. A rollout may have no such token, or no token.
        scores: G float64 arrays of E_i values: one a step (`prm`) or a token (`kl`). Empty where the process signal
            is not read, its weight being 0.
        ends: G int64 arrays of E_i values, the exclusive token end of what each score is about (`kl`: 1, 2, ..., L_i).
        live: G arrays of E_i bools: False where no token that the score is about counts. Such a score is 0 here and
            belongs to no pool.
        outcome, format: G float64 values; 0 where the stream's weight is 0.
        table, rows: where the group's rollouts stand in the table that is shaped; what `column` reads.
    """

    group_id: Any
    mask: tuple[NDArray[np.bool_], ...]
    scores: tuple[NDArray[np.float64], ...]
    ends: tuple[NDArray[np.int64], ...]
    live: tuple[NDArray[np.bool_], ...]
    outcome: NDArray[np.float64]
    format: NDArray[np.float64]
    table: pa.Table | None = field(default=None, repr=False, compare=False)
    rows: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.mask)

    def column(self, name: str) -> tuple[Any, ...]:
        """What the table holds for the G rollouts under a name: an array where it holds a list of numbers or bools,
        else the plain value; None where it is null. Values are as stored, at masked tokens too.

        Costs about five microseconds a rollout, whatever its length; columns that are not asked for cost nothing.
        Arrays without nulls share the table's memory and are read-only.

        Raises MissingColumnError, with the nearest name, where the table has no such column.
        """
        table = pa.table({}) if self.table is None else self.table
        places = table.schema.get_all_field_indices(name)
        if len(places) != 1:
            fact = f"has it {len(places)} times" if places else "does not have it"
            remedy = "keep one of them" if places else advice(name, table.column_names) if table.column_names else ""
            raise MissingColumnError(
                f"group {self.group_id!r}: the estimator reads the column {name!r}, and the table {fact}; {remedy}"
            )
        column, first = table.column(places[0]), min(self.rows, default=0)
        part = column.slice(first, max(self.rows, default=-1) + 1 - first)
        return tuple(_plain(part[row - first]) for row in self.rows)

    @property
    def tokens(self) -> Arrays:
        """G int32 arrays of L_i token ids: column `token_ids`."""
        return self.column("token_ids")

    @property
    def answers(self) -> tuple[Any, ...]:
        """G reference answers, equal within a group: column `answer`."""
        return self.column("answer")

    @property
    def behavior_logprobs(self) -> Arrays:
        """G float32 arrays of L_i log-probabilities (nats) at the sampling temperature."""
        return self.column("behavior_logprobs")

    @property
    def reference_logprobs(self) -> Arrays:
        """G float32 arrays of L_i log-probabilities by the signal of `shape.reference`; None for a null row."""
        return self.column("reference_logprobs")

    def logprobs(self, signal: str) -> Arrays:
        """G float32 arrays of L_i log-probabilities by a signal of `shape.logprobs`; None for a null row."""
        return self.column(f"{signal}_logprobs")

    @property
    def entropy(self) -> Arrays:
        """G float32 arrays of L_i entropies (nats) of the distribution each token was drawn from,
        where generate stored them (`generate.sampling.token_statistics`).
        """
        return self.column("entropy")

    @property
    def sum_pi_squared(self) -> Arrays:
        """G float32 arrays of L_i sums of that distribution's squared probabilities."""
        return self.column("sum_pi_squared")


def reads(*names: str) -> Callable[[Function], Function]:
    """Say that an estimator cannot do without these columns: a rollout with a null there is not trainable, and not in
    its group, as with a null in a stream.

    >>> @reads("token_ids")
    ... def first_token_counts_double(group, config):
    ...     return [np.where(np.arange(len(ids)) == 0, 2.0, 1.0) for ids in group.tokens]
    """

    def named(function: Function) -> Function:
        function.reads = names  # type: ignore[attr-defined]
        return function

    return named


def _plain(value: pa.Scalar) -> Any:
    """A cell as an array where it is a list of numbers or bools, else as a Python value."""
    kind = value.type
    if not value.is_valid or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return value.as_py()
    numbers = kind.value_type
    if pa.types.is_integer(numbers) or pa.types.is_floating(numbers) or pa.types.is_boolean(numbers):
        return value.values.to_numpy(zero_copy_only=False)
    return value.as_py()
