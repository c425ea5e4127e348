"""What the signals share that run a model with the rollouts' own vocabulary: the policy, a teacher, a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.engines.base import EngineOptions
from pipelines.engines.environment import engine_environment
from pipelines.models.folder import (
    VocabularyMismatchError,
    check_same_vocabulary,
    model_digest,
    tensor_shapes,
    vocabulary,
)
from pipelines.models.source import pinned_model
from pipelines.options import Url, options
from pipelines.signals.base import SignalInputError, SignalOptionError
from pipelines.signals.kept import AskingSignal


@options(SignalOptionError)
class ModelSignal(AskingSignal):
    """A signal by a model that reads the rollouts' token ids."""

    model: Url | None = None
    """A model folder with the rollouts' vocabulary (default: the policy that sampled them). Example: "my/teacher"."""
    engine: EngineOptions | None = None
    """How the model is run, with the keys of [engine] (default: as [engine] says, so that a signal of the policy shares
    the engine it was sampled with)."""

    @property
    def needs_known(self) -> tuple[str, ...]:
        """The token ids, which the model reads, and which of them count."""
        return ("prompt_token_ids", "token_ids", "loss_mask")

    @property
    def engine_options(self) -> EngineOptions:
        """How the model is run, outside of a run by default options; nobody reads the logprobs of what it samples."""
        return replace(self.engine or EngineOptions(), logprobs_mode="either")

    def run_with(self, engine: EngineOptions) -> Self:
        """With these engine options, where none are given, and on their device, where none is."""
        return replace(self, engine=engine if self.engine is None else self.engine.on_device_of(engine))

    def engines(self) -> Mapping[str, EngineOptions]:
        """The model that scores, unless it is the policy."""
        return {} if self.model is None else {self.model: self.engine_options}

    def options(self) -> dict[str, Any]:
        """The model stands in `models` by its digest, how it is run in `environment`."""
        return {name: value for name, value in super().options().items() if name not in ("model", "engine")}

    def models(self) -> dict[str, ModelRef]:
        """The model that scores."""
        return super().models() | {"scorer": ModelRef(pinned_model(self.folder), model_digest(self.folder))}

    def environment(self) -> dict[str, Any]:
        """The engine's libraries, dtype and device."""
        return super().environment() | engine_environment(self.folder, self.engine_options)

    def for_policy(self, folder: str, rollouts: DatasetSpec) -> Self:
        """With the policy's folder as model, where none is given."""
        return self if self.model is not None else replace(self, model=folder)

    @property
    def folder(self) -> str:
        """The model's folder. Raises SignalInputError where it is the policy's and that is not known."""
        if self.model is None:
            raise SignalInputError(
                "no model is given, which stands for the policy, and the policy's folder is not known either"
            )
        return self.model

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The model has the rollouts' vocabulary, and weights.

        Raises SignalInputError, VocabularyMismatchError, ModelNotFoundError, ModelFilesError.
        """
        super().check(rollouts, inputs)
        theirs = rollouts.carried.get("vocabulary")
        if not isinstance(theirs, Mapping):
            raise SignalInputError(
                "the rollouts' _dataset.json names no vocabulary, so no other model can score their tokens"
            )
        ours = vocabulary(self.folder)
        if theirs["digest"] != ours.digest:
            policy = rollouts.models.get("policy")
            if policy is not None and Path(policy.id).is_dir():  # then the first token that differs can be named
                check_same_vocabulary(policy=policy.id, other=self.folder, role="model")
            raise VocabularyMismatchError(
                f"The model {self.folder} has another vocabulary ({ours.size} tokens, digest {ours.digest[:8]}) "
                f"than the rollouts ({theirs['size']} tokens, digest {theirs['digest'][:8]}). Its log-probabilities "
                "would be those of other tokens; choose a model of the policy's own family."
            )
        tensor_shapes(self.folder)
