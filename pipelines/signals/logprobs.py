"""Signal `logprobs`: log-probabilities of the sampled tokens under another model (teacher, base, reference, policy)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.engines.base import Engine, EngineOptions, RequestRejected
from pipelines.models import VocabularyMismatchError, model_digest, vocabulary
from pipelines.signals.base import Row, SignalBase, SignalInputError, sidecar
from pipelines.stages.environment import engine_environment


@dataclass(frozen=True, kw_only=True)
class LogprobsSignal(SignalBase):
    """logprobs, one a completion token, natural log, at temperature 1 over the full vocabulary; 0.0 where masked.

    model: a model folder with the rollouts' vocabulary; None = the policy that sampled the rollouts. engine: how it is
    run. A row whose prompt and completion do not fit the model's context is too_long; one with -inf at an unmasked
    token is neg_inf.
    """

    kind: ClassVar[str] = "logprobs"

    model: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)

    def options(self) -> dict[str, Any]:
        """None: the model stands in `models` by its digest, how it is run in `environment`."""
        return {}

    def models(self) -> dict[str, ModelRef]:
        """The model that scores."""
        return {"scorer": ModelRef(self._folder, model_digest(self._folder))}

    def environment(self) -> dict[str, Any]:
        """The engine's libraries, dtype and device."""
        return engine_environment(self._folder, self.engine)

    def for_policy(self, folder: str) -> Self:
        """With the policy's folder as model, where none is given."""
        return self if self.model is not None else replace(self, model=folder)

    @property
    def _folder(self) -> str:
        if self.model is None:
            raise SignalInputError(
                "no model is given, which stands for the policy, and the policy's folder is not known either"
            )
        return self.model

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The model has the rollouts' vocabulary.

        Raises SignalInputError, VocabularyMismatchError, ModelNotFoundError, ModelFilesError.
        """
        theirs = rollouts.carried.get("vocabulary")
        if not isinstance(theirs, Mapping):
            raise SignalInputError(
                "the rollouts' _dataset.json names no vocabulary, so no other model can score their tokens"
            )
        ours = vocabulary(self._folder)
        if theirs["digest"] != ours.digest:
            raise VocabularyMismatchError(
                f"The model {self._folder} has another vocabulary ({ours.size} tokens, digest {ours.digest[:8]}) "
                "than the rollouts "
                f"({theirs['size']} tokens, digest {theirs['digest'][:8]}). Its log-probabilities would be those "
                "of other tokens; "
                "choose a model of the policy's own family."
            )

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask for every rollout's log-probabilities at once, then collect them in order."""
        from pipelines.engines import acquire

        engine = acquire(self._folder, self.engine)
        prompts = rollouts["prompt_token_ids"].to_pylist()
        completions = rollouts["token_ids"].to_pylist()
        masks = rollouts["loss_mask"].to_pylist()
        asked = [_ask(engine, prompt, ids) for prompt, ids in zip(prompts, completions, strict=True)]
        return sidecar(self.kind, rollouts, [_row(found, mask) for found, mask in zip(asked, masks, strict=True)])


def _ask(engine: Engine, prompt: list[int], completion: list[int]) -> Row | Future[NDArray[np.float32]]:
    """The request, or the row where there is nothing to ask."""
    if not completion:
        return Row(values={"logprobs": []})
    if len(prompt) + len(completion) > engine.max_model_len:
        return Row("too_long", f"{len(prompt)} + {len(completion)} tokens, the model takes {engine.max_model_len}")
    return engine.score([*prompt, *completion], start=len(prompt))


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
