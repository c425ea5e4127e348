"""The plain engine: Hugging Face transformers, float32, a batch at a time. The oracle of the others; slow.

A row is sampled from its own distribution with its own generator. What else is in the batch changes a row's logits by
rounding alone (padding), never its distribution. Legend: _B rows of a batch, _T tokens, _V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.engines.base import (
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
)
from pipelines.engines.device import device_kind, free_cached_memory, resolve_dtype
from pipelines.engines.driver import Answer, DrivenEngine, ScoreRequest
from pipelines.engines.text import completion_text, stops
from pipelines.engines.transformers_common import batch_size
from pipelines.models.adapters import read_adapter
from pipelines.models.folder import check_model_folder, load_tokenizer
from trainer.loading import context_length, load_model

SCORED_LOGITS = 2**28  # at most this many at a time (1 GiB in float32), one request's own apart
Work = tuple[int, SampleRequest | ScoreRequest]


def start(model: str, options: EngineOptions) -> DrivenEngine:
    """Load a model folder. Raises EngineOptionError, ModelNotFoundError, ModelFilesError."""
    if options.pooling is None:
        return DrivenEngine(lambda: TransformersBackend(model, options), model=model, name="transformers")
    from pipelines.engines.transformers_pooling import TransformersPoolingBackend

    return DrivenEngine(lambda: TransformersPoolingBackend(model, options), model=model, name="transformers")


def processed_logits(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The logits a token is drawn from: divided by temperature, -inf where min_p, top_k or top_p cut.

    In vLLM's order: temperature, min_p (tokens below min_p times the likeliest), top_k, then top_p over what is left
    (the fewest tokens whose probabilities reach top_p). At temperature 0 all but the likeliest are cut.
    """
    if sampling.temperature == 0:
        return torch.full_like(logits_V, -torch.inf).scatter_(0, logits_V.argmax(keepdim=True), 0.0)
    logits_V = logits_V / sampling.temperature
    if sampling.min_p > 0:
        probabilities_V = logits_V.softmax(-1)
        logits_V = logits_V.masked_fill(probabilities_V < sampling.min_p * probabilities_V.max(), -torch.inf)
    if 0 < sampling.top_k < len(logits_V):
        logits_V = logits_V.masked_fill(logits_V < logits_V.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        sorted_V, order_V = logits_V.sort(descending=True)
        probabilities_V = sorted_V.softmax(-1)
        cut_V = probabilities_V.cumsum(-1) - probabilities_V >= sampling.top_p  # the likeliest always stays
        logits_V = logits_V.masked_fill(torch.zeros_like(cut_V).scatter_(0, order_V, cut_V), -torch.inf)
    return logits_V


class _Row:
    """One rollout being sampled."""

    def __init__(self, key: int, request: SampleRequest, *, room: int, tokenizer: Any) -> None:
        self.key = key
        self.stops = stops(tokenizer, request.sampling.stop, request.sampling.keep_special_tokens)
        self.request = request
        self.limit = min(request.sampling.max_tokens, room)
        self.generator = torch.Generator().manual_seed(request.seed)
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.statistics: list[tuple[float, float]] = []
        self.finish_reason: str | None = None

    def draw(self, logits_V: torch.Tensor, *, processed: bool) -> int:
        """Sample the next token and keep its logprob (raw, or of the processed distribution); NaN where that is NaN.

        Greedy tokens have raw logprobs in either mode, as in vLLM.
        """
        processed_V = processed_logits(logits_V, self.request.sampling)
        probabilities_V = processed_V.softmax(-1)
        usable = not probabilities_V.isnan().any()
        token = int(torch.multinomial(probabilities_V, 1, generator=self.generator)) if usable else 0
        reported_V = processed_V if processed and self.request.sampling.temperature > 0 else logits_V
        self.token_ids.append(token)
        logprobs_V = reported_V.log_softmax(-1)
        self.logprobs.append(float(logprobs_V[token]) if usable else math.nan)
        if self.request.sampling.token_statistics:
            reported_probabilities_V = logprobs_V.double().exp()
            entropy = torch.special.entr(reported_probabilities_V).sum()
            self.statistics.append((float(entropy), float(reported_probabilities_V.square().sum())))
        return token


class TransformersBackend:
    """A causal language model of transformers behind the driver's five calls; see `driver.Backend`."""

    pools = False

    def __init__(self, model: str, options: EngineOptions) -> None:
        check_model_folder(model)
        if read_adapter(model) is not None:
            raise EngineOptionError(f"{model} is a LoRA adapter; run it by kind vllm, or merge it into its base model.")
        self._batch_size = batch_size(options)
        self._dtype = getattr(torch, resolve_dtype(model, options))
        self._device = torch.device(device_kind())
        self._processed = options.logprobs_mode != "raw_logprobs"
        self.tokenizer = load_tokenizer(model)
        self.load_weights(model)
        limit = context_length(self._model.config)
        if options.max_model_len is not None and options.max_model_len > limit:
            fact = f"max_model_len is {options.max_model_len}, but the model {model} takes at most {limit} tokens."
            raise EngineOptionError(fact)
        self.max_model_len = options.max_model_len or limit
        self.vocab_size = int(self._model.get_input_embeddings().num_embeddings)
        self._waiting: deque[Work] = deque()

    def load_weights(self, model: str) -> None:
        """Load the folder's model anew."""
        from transformers import AutoModelForCausalLM

        loaded = load_model(AutoModelForCausalLM, model, dtype=self._dtype)
        self._model: Any = loaded.to(self._device)
        ends = loaded.generation_config.eos_token_id
        self._end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def add(self, key: int, request: SampleRequest | ScoreRequest) -> None:
        """Keep a request for a batch."""
        self._waiting.append((key, request))

    def step(self) -> list[tuple[int, Answer]]:
        """One batch from beginning to end: the first requests that wait, of one kind."""
        kind, widest = type(self._waiting[0][1]), 0
        batch: list[Any] = []
        while self._waiting and len(batch) < self._batch_size and isinstance(self._waiting[0][1], kind):
            request = self._waiting[0][1]
            if isinstance(request, ScoreRequest):
                widest = max(widest, len(request.token_ids))
                if batch and widest * (len(batch) + 1) * self.vocab_size > SCORED_LOGITS:
                    break
            batch.append(self._waiting.popleft())
        with torch.inference_mode():
            return self._score(batch) if kind is ScoreRequest else self._sample(batch)

    def drop(self, keys: Collection[int]) -> None:
        """Forget them; a batch once begun is over before its driver can say so."""
        self._waiting = deque(work for work in self._waiting if work[0] not in keys)

    def sleep(self) -> None:
        """Give the weights up; `wake` loads a folder's anew."""
        self._model = None
        free_cached_memory()

    def wake(self, model: str) -> None:
        """Load the folder's model."""
        self.load_weights(model)

    def close(self) -> None:
        """Free the model."""
        self.sleep()

    def _sample(self, batch: list[tuple[int, SampleRequest]]) -> list[tuple[int, Answer]]:
        room = self.max_model_len
        rows = [_Row(k, r, room=room - len(r.prompt_token_ids), tokenizer=self.tokenizer) for k, r in batch]
        done: list[_Row] = []
        ids_BT, mask_BT = self._pad([np.asarray(r.prompt_token_ids) for _, r in batch], left=True)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        cache = None
        while rows:
            output = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            logits_BV = output.logits[:, -1].float().cpu()
            tokens_B = [
                row.draw(logits_V, processed=self._processed) for row, logits_V in zip(rows, logits_BV, strict=True)
            ]
            for row in rows:
                row.finish_reason = self._finish_reason(row)
            keep = [i for i, row in enumerate(rows) if row.finish_reason is None]
            done += [row for row in rows if row.finish_reason is not None]
            rows = [rows[i] for i in keep]
            if rows:
                kept = torch.tensor(keep, device=self._device)
                cache.batch_select_indices(kept)
                ids_BT = torch.tensor([[tokens_B[i]] for i in keep], device=self._device)
                mask_BT = torch.cat([mask_BT[kept], torch.ones_like(ids_BT)], dim=1)
                positions_BT = positions_BT[kept, -1:] + 1
        return [(row.key, self._answer(row)) for row in done]

    def _finish_reason(self, row: _Row) -> str | None:
        sampling = row.request.sampling
        if not math.isfinite(row.logprobs[-1]):
            return "error"
        if row.token_ids[-1] in self._end_ids and not sampling.ignore_eos:
            return "stop"
        if sampling.stop and row.stops.found(row.token_ids, self._text(row)) is not None:
            return "stop"
        return "length" if len(row.token_ids) == row.limit else None

    def _answer(self, row: _Row) -> Answer:
        if row.finish_reason not in ("stop", "length"):
            return RequestRejected("non_finite_logprob", f"{row.logprobs[-1]} at token {len(row.logprobs) - 1}")
        return Sample(
            token_ids=np.asarray(row.token_ids, dtype=np.int32),
            logprobs=np.asarray(row.logprobs, dtype=np.float32),
            finish_reason=row.finish_reason,
            text=self._text(row),
            statistics=np.asarray(row.statistics, dtype=np.float32).T if row.statistics else None,
        )

    def _score(self, batch: list[tuple[int, ScoreRequest]]) -> list[tuple[int, Answer]]:
        ids_BT, mask_BT = self._pad([np.asarray(request.token_ids) for _, request in batch], left=False)
        logits_BTV = self._model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        answers: list[tuple[int, Answer]] = []
        for b, (key, request) in enumerate(batch):
            length = len(request.token_ids)
            logits_TV = logits_BTV[b, request.start - 1 : length - 1].float()
            logprobs_TV = (logits_TV / request.temperature).log_softmax(-1)
            targets_T = ids_BT[b, request.start : length]
            logprobs_T = logprobs_TV.gather(-1, targets_T.unsqueeze(-1)).squeeze(-1).cpu().numpy()
            nan = np.isnan(logprobs_T)
            detail = f"NaN at token {int(nan.argmax())} of {len(nan)}" if nan.any() else ""
            answers.append((key, RequestRejected("non_finite_logprob", detail) if detail else logprobs_T))
        return answers

    def _pad(self, rows: Sequence[NDArray[np.int_]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both int64 [B, T]."""
        width = max(len(row) for row in rows)
        ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for b, row in enumerate(rows):
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids_BT[b, where] = torch.tensor(row)  # a copy: the array may be read-only
            mask_BT[b, where] = 1
        return ids_BT.to(self._device), mask_BT.to(self._device)

    def _text(self, row: _Row) -> str:
        return completion_text(self.tokenizer, row.token_ids, keep=row.request.sampling.keep_special_tokens)
