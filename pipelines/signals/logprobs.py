"""Signal `logprobs`: log-probabilities of the sampled tokens under another model (teacher, base, reference, policy)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.engines.base import Engine, RequestRejected
from pipelines.options import options
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.kept import FLOAT32, Answers, request_name
from pipelines.signals.modelled import ModelSignal


@options(SignalOptionError)
class LogprobsSignal(ModelSignal):
    """Log-probabilities of the sampled tokens under another model (nats, temperature 1, full vocabulary).

    A row whose prompt and completion do not fit the model's context is too_long; one with -inf at an unmasked token is
    neg_inf.
    """

    kind: ClassVar[str] = "logprobs"

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask for every rollout's log-probabilities at once, then collect them in order."""
        from pipelines.engines import acquire

        engine = acquire(self.folder, self.engine_options)
        prompts = rollouts["prompt_token_ids"].to_pylist()
        completions = rollouts["token_ids"].to_pylist()
        masks = rollouts["loss_mask"].to_pylist()
        asked = [_ask(engine, prompt, ids, self._answers) for prompt, ids in zip(prompts, completions, strict=True)]
        return sidecar(self.kind, rollouts, [_row(found, mask) for found, mask in zip(asked, masks, strict=True)])


def _ask(
    engine: Engine, prompt: list[int], completion: list[int], answers: Answers
) -> Row | Future[NDArray[np.float32]]:
    """The request, or the row where there is nothing to ask."""
    if not completion:
        return Row(values={"logprobs": []})
    if len(prompt) + len(completion) > engine.max_model_len:
        return Row("too_long", f"{len(prompt)} + {len(completion)} tokens, the model takes {engine.max_model_len}")
    whole, start = [*prompt, *completion], len(prompt)
    return answers.ask(request_name(whole, start), lambda: engine.score(whole, start=start), FLOAT32)


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
