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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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
        columns: the further columns that the estimator asks for with `reads`: G values each, an array where the column
            holds lists (of the type it has), else a number, string or bool. A rollout with a null there is not
            trainable and not in the group.
    """

    group_id: Any
    mask: tuple[NDArray[np.bool_], ...]
    scores: tuple[NDArray[np.float64], ...]
    ends: tuple[NDArray[np.int64], ...]
    live: tuple[NDArray[np.bool_], ...]
    outcome: NDArray[np.float64]
    format: NDArray[np.float64]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mask)


def reads(*names: str) -> Callable[[Function], Function]:
    """Say that an estimator reads further columns of the table, such as token_ids; it finds them in `Group.columns`.

    >>> @reads("token_ids")
    ... def first_token_counts_double(group, config):
    ...     return [np.where(np.arange(len(ids)) == 0, 2.0, 1.0) for ids in group.columns["token_ids"]]
    """

    def named(function: Function) -> Function:
        function.columns = names  # type: ignore[attr-defined]
        return function

    return named
