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
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops.shards import DatasetSpec
from pipelines.engines.base import Engine, RequestRejected
from pipelines.models.folder import chat_template_digest, load_tokenizer, tokenizer_digest
from pipelines.options import Table, options
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.context import Context
from pipelines.signals.kept import FLOAT32, request_name
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
        prompts = self._prompts(engine, rollouts, inputs)
        completions = rollouts["token_ids"].to_pylist()
        masks = rollouts["loss_mask"].to_pylist()
        asked = [self._ask(engine, prompt, ids) for prompt, ids in zip(prompts, completions, strict=True)]
        return sidecar(self.kind, rollouts, [_row(found, mask) for found, mask in zip(asked, masks, strict=True)])

    def _ask(self, engine: Engine, prompt: list[int] | Row, completion: list[int]) -> Row | Future[NDArray[np.float32]]:
        """The request, or the row where there is nothing to ask."""
        if isinstance(prompt, Row):
            return prompt
        if not completion:
            return Row(values={"logprobs": []})
        if len(prompt) + len(completion) > engine.max_model_len:
            return Row("too_long", f"{len(prompt)} + {len(completion)} tokens, the model takes {engine.max_model_len}")
        whole, start = [*prompt, *completion], len(prompt)
        submit = partial(engine.score, whole, start=start, temperature=self._temperature)
        return self._answers.ask(request_name(whole, start), submit, FLOAT32)

    def _prompts(self, engine: Engine, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> list[list[int] | Row]:
        """What each completion is scored after, or the row of one that is not scored."""
        own: list[list[int]] = rollouts["prompt_token_ids"].to_pylist()
        left_out = self._left_out(rollouts, inputs)
        new: list[list[int] | Row | None] = [None] * len(own)
        if self.context is not None:
            lengths = pc.list_value_length(rollouts["token_ids"]).to_pylist()
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


def _row(found: Row | Future[NDArray[np.float32]], mask: list[bool]) -> Row:
    if isinstance(found, Row):
        return found
    try:
        logprobs_T = np.asarray(found.result(), dtype=np.float32)
    except RequestRejected as rejected:
        return Row("error", str(rejected))
    mask_T = np.asarray(mask, dtype=bool)
    logprobs_T = np.where(mask_T, logprobs_T, np.float32(0.0))
    odd_T = np.flatnonzero(~np.isfinite(logprobs_T))
    if odd_T.size == 0:
        return Row(values={"logprobs": logprobs_T})
    first = int(odd_T[0])
    status = "neg_inf" if np.all(np.isneginf(logprobs_T[odd_T])) else "error"
    return Row(status, f"{logprobs_T[first]} at completion token {first}")
