"""Signal `logprobs`: log-probabilities of the sampled tokens under another model (teacher, base, reference, policy), or
after another prompt (`pipelines.signals.context`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_array, list_lengths, list_values, offsets
from pass_ops.shards import DatasetSpec
from pipelines.engines.base import Engine
from pipelines.engines.text import TokenIds
from pipelines.models.folder import chat_template_digest, load_tokenizer, tokenizer_digest
from pipelines.options import Table, options
from pipelines.signals.base import Row, SignalOptionError
from pipelines.signals.columns import columnar_sidecar, list_rows, spread
from pipelines.signals.context import Context
from pipelines.signals.kept import FLOAT32, Answered, answered, request_name
from pipelines.signals.modelled import ModelSignal
from pipelines.signals.prompt_columns import check_columns, columns_by_prompt, of_group


@options(SignalOptionError)
class LogprobsSignal(ModelSignal):
    """Log-probabilities of the sampled tokens under another model (nats, temperature 1, full vocabulary).

    With a context: log p(y_t | context, y_<t), the completion's token ids as stored, after another prompt. A row whose
    prompt and completion do not fit the model's context is too_long; one with -inf at an unmasked token is neg_inf; one
    that has no context (no right peer in its group, a null column) is no_input.
    """

    kind: ClassVar[str] = "logprobs"
    _temperature: ClassVar[float] = 1.0

    context: Context | None = None
    """Another prompt to score the completions after, as a table of the keys below (default: their own)."""
    where: Table | None = None
    """Scores only rollouts whose prompt has these values in its columns (source, or a name of prompts.extra), one value
    or a list for each; the other rows are null, at no cost. Example: { domain = "math" }."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.where is not None and not self.where:
            raise SignalOptionError('where names no column; leave it out, or name one, as in { domain = "math" }')

    def at_temperature(self, temperature: float) -> Self:
        """The same signal for whoever stores its values elsewhere: log softmax(logits / temperature)."""
        found = copy.copy(self)
        object.__setattr__(found, "_temperature", temperature)
        return found

    @property
    def inputs(self) -> tuple[str, ...]:
        """The prompts, and what the context reads."""
        read = self.context.inputs if self.context is not None else ()
        return tuple(dict.fromkeys([*(("prompts",) if self.where else ()), *read]))

    @property
    def needs_tokenizer(self) -> bool:
        """With a context: the policy's folder stands for the form of the prompts."""
        return self.context is not None

    def for_policy(self, folder: str, rollouts: DatasetSpec) -> Self:
        """With the policy's folder as model, and a context in the form that the rollouts' prompts had."""
        bound = super().for_policy(folder, rollouts)
        return bound if bound.context is None else replace(bound, context=bound.context.as_sampled(rollouts))

    def options(self) -> dict[str, Any]:
        """Context and where only where they are set: older datasets keep their fingerprints."""
        found = super().options()
        del found["context"], found["where"]
        if self.context is not None:
            found["context"] = self.context.as_values()
        return found | ({"where": dict(self.where)} if self.where else {})

    def code(self) -> dict[str, str]:
        """The context's function."""
        return super().code() | (self.context.code() if self.context is not None else {})

    def environment(self) -> dict[str, Any]:
        """The engine's, and how the model reads a context."""
        found = super().environment()
        if self.context is not None:
            found["context_tokenizer"] = tokenizer_digest(self.folder)
            found["context_chat_template"] = chat_template_digest(self.folder)
        return found

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The model has the rollouts' vocabulary; the columns that context and where name are there."""
        super().check(rollouts, inputs)
        if self.where is not None:
            check_columns(self.where, inputs["prompts"], option="where")
        if self.context is not None:
            self.context.check(inputs, templated=bool(load_tokenizer(self.folder).chat_template))

    @property
    def reads(self) -> tuple[str, ...]:
        """The tokens; with a context or where, the group, which is the prompt's, and the texts that peers show."""
        return ("group_id", "prompt_token_ids", "token_ids", "loss_mask", *(("text",) if self.context else ()))

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask for every rollout's log-probabilities at once, then collect them in order."""
        from pipelines.engines import acquire

        engine = acquire(self.folder, self.engine_options)
        prompts, completions = self._prompts(engine, rollouts, inputs), list_rows(rollouts["token_ids"])
        asked = [self._ask(engine, prompt, ids) for prompt, ids in zip(prompts, completions, strict=True)]
        return _sidecar(rollouts, answered(asked))

    def _ask(
        self, engine: Engine, prompt: TokenIds | Row, completion: NDArray[np.int32]
    ) -> Row | Future[NDArray[np.float32]]:
        """The request, or the row where there is nothing to ask."""
        if isinstance(prompt, Row):
            return prompt
        if not len(completion):
            return Row()
        if len(prompt) + len(completion) > engine.max_model_len:
            return Row("too_long", f"{len(prompt)} + {len(completion)} tokens, the model takes {engine.max_model_len}")
        whole, start = np.concatenate([np.asarray(prompt, np.int32), completion]), len(prompt)
        submit = partial(engine.score, whole, start=start, temperature=self._temperature)
        return self._answers.ask(request_name(whole, start), submit, FLOAT32)

    def _prompts(self, engine: Engine, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> list[TokenIds | Row]:
        """What each completion is scored after, or the row of one that is not scored."""
        own = list_rows(rollouts["prompt_token_ids"])
        left_out = self._left_out(rollouts, inputs)
        new: list[list[int] | Row | None] = [None] * len(own)
        if self.context is not None:
            lengths = list_lengths(rollouts["token_ids"]).tolist()
            wanted = [row is None and length > 0 for row, length in zip(left_out, lengths, strict=True)]
            new = self.context.prompts(rollouts, inputs, tokenizer=engine.tokenizer, wanted=wanted)
        return [row or other or ids for row, other, ids in zip(left_out, new, own, strict=True)]

    def _left_out(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> list[Row | None]:
        """The row of each rollout that `where` leaves out."""
        if not self.where:
            return [None] * len(rollouts)
        columns = columns_by_prompt(inputs["prompts"])
        return [_elsewhere(of_group(columns, group), self.where) for group in rollouts["group_id"].to_pylist()]


def _elsewhere(columns: Mapping[str, Any], where: Mapping[str, Any]) -> Row | None:
    for name, wanted in where.items():
        values = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
        own = columns.get(name)
        if own is None or str(own) not in map(str, values):
            asked = " or ".join(map(repr, values))
            return Row("no_input", f"{name} is {own!r}; this signal is about {asked}")
    return None


def _sidecar(rollouts: pa.Table, found: Answered) -> pa.Table:
    """The answers, 0.0 where masked; a row with a value that is not finite where it counts is null, and says where."""
    asked = rollouts.filter(pa.array(found.ok_R))
    starts_R1, mask_N = offsets(list_lengths(asked["token_ids"])), list_values(asked["loss_mask"])
    logprobs_N = np.where(mask_N, found.values_N, np.float32(0.0))
    status, detail = list(found.status), list(found.detail)
    odd_N = np.flatnonzero(~np.isfinite(logprobs_N))
    row_of = np.flatnonzero(found.ok_R)
    for place in np.unique(np.searchsorted(starts_R1, odd_N, side="right") - 1).tolist():
        odd_T = np.flatnonzero(~np.isfinite(logprobs_T := logprobs_N[starts_R1[place] : starts_R1[place + 1]]))
        row, first = int(row_of[place]), int(odd_T[0])
        status[row] = "neg_inf" if np.all(np.isneginf(logprobs_T[odd_T])) else "error"
        detail[row] = f"{logprobs_T[first]} at completion token {first}"
    values = {"logprobs": spread(list_array(starts_R1, logprobs_N), found.ok_R)}
    return columnar_sidecar("logprobs", rollouts, values, status=status, detail=detail)
