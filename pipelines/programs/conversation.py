"""One rollout under way: the ids so far, what the policy chose of them, and the engine that goes on from them.

Sampled ids are kept as they came and never encoded again; inserted text is encoded once, on its own. The next call's
prompt is always the prompt's ids and all ids so far.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.engines.base import Engine, RequestRejected, Sample, SampleRequest, Sampling
from pipelines.engines.prompts import rejecting_unspelled
from pipelines.engines.text import completion_text, spelling_tokenizer, stops
from pipelines.programs.base import RolloutFull, Turn

# A request the engine may answer the second time (RequestRejected.transient) is made so often before it is rejected.
REQUEST_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """A finished rollout of T tokens: as a sample, and loss_mask bool [T], True where the policy chose the token."""

    sample: Sample
    loss_mask: NDArray[np.bool_]


def call_seed(seed: int, call: int) -> int:
    """The seed of a rollout's call number `call`: the rollout's own for the first, then 63 bits of sha256 over the two.

    >>> call_seed(7, 0), call_seed(7, 1)
    (7, 843124892043230816)
    """
    if call == 0:
        return seed
    digest = hashlib.sha256(json.dumps([seed, call], separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Conversation:
    """A `Sampler` on an engine. attempts: how often the last request was made."""

    def __init__(self, engine: Engine, *, prompt_token_ids: Sequence[int], seed: int, sampling: Sampling) -> None:
        self.seed = seed
        self.attempts = 0
        self._engine = engine
        self._sampling = sampling
        self._prompt = list(prompt_token_ids)
        self._limit = min(sampling.max_tokens, engine.max_model_len - len(self._prompt))
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._loss_mask: list[bool] = []
        self._statistics: list[NDArray[np.float32]] = []  # [2, tokens] of each turn and insertion
        self._text = (0, "")  # of so many tokens: decoding is half of what a short rollout costs besides the model
        self._calls = 0
        self._busy = False
        self._cut = False

    @property
    def text(self) -> str:
        """See `Sampler.text`."""
        if self._text[0] != len(self._token_ids):
            self._text = (len(self._token_ids), self._decode(self._token_ids))
        return self._text[1]

    @property
    def room(self) -> int:
        """See `Sampler.room`."""
        return self._limit - len(self._token_ids)

    async def __call__(self, *, stop: Sequence[str] | None = None, max_tokens: int | None = None) -> Turn:
        """See `Sampler.__call__`."""
        if self._busy:
            raise RuntimeError("sample was called again before its last call was answered; await one call at a time")
        self._require_room(1)
        sampling = replace(
            self._sampling,
            max_tokens=self.room if max_tokens is None else min(max_tokens, self.room),
            stop=self._sampling.stop if stop is None else tuple(stop),
        )
        seed = call_seed(self.seed, self._calls)
        self._calls += 1
        self._busy = True
        try:
            sample = await self._ask(
                SampleRequest(prompt_token_ids=[*self._prompt, *self._token_ids], seed=seed, sampling=sampling)
            )
        finally:
            self._busy = False
        if not self._token_ids:
            self._text = (len(sample.token_ids), sample.text)
        self._add(sample.token_ids.tolist(), sample.logprobs.tolist(), chosen=True)
        if sample.statistics is not None:
            self._statistics.append(sample.statistics)
        self._cut = sample.finish_reason == "length"
        stopped_by = None
        if sampling.stop:
            found = stops(self._engine.tokenizer, sampling.stop, sampling.keep_special_tokens)
            stopped_by = found.found(sample.token_ids.tolist(), sample.text)
        return Turn(
            text=sample.text,
            token_ids=tuple(sample.token_ids.tolist()),
            finish_reason=sample.finish_reason,
            stop=None if self._cut else stopped_by,
        )

    def insert(self, text: str, *, special_tokens: bool = False) -> None:
        """See `Sampler.insert`."""
        tokenizer = self._engine.tokenizer
        with rejecting_unspelled():
            if special_tokens:
                token_ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            else:
                token_ids = spelling_tokenizer(tokenizer).encode(text, add_special_tokens=False).ids
        self._require_room(len(token_ids))
        self._add(token_ids, [0.0] * len(token_ids), chosen=False)
        if self._sampling.token_statistics:
            self._statistics.append(np.zeros((2, len(token_ids)), np.float32))
        self._cut = False

    def completion(self) -> Completion:
        """The rollout as it stands. finish_reason length where its last turn was cut or something did not fit."""
        sample = Sample(
            token_ids=np.asarray(self._token_ids, dtype=np.int32),
            logprobs=np.asarray(self._logprobs, dtype=np.float32),
            finish_reason="length" if self._cut else "stop",
            text=self.text,
            statistics=np.concatenate(self._statistics, axis=1) if self._statistics else None,
        )
        return Completion(sample=sample, loss_mask=np.asarray(self._loss_mask, dtype=bool))

    async def _ask(self, request: SampleRequest) -> Sample:
        """The sample; a transient rejection is asked again."""
        self.attempts = 0
        while True:
            self.attempts += 1
            try:
                sample = await asyncio.wrap_future(self._engine.submit(request))
                check_sample(sample)
            except RequestRejected as error:
                if not error.transient or self.attempts >= REQUEST_ATTEMPTS:
                    raise
            else:
                return sample

    def _add(self, token_ids: Sequence[int], logprobs: Sequence[float], *, chosen: bool) -> None:
        self._token_ids += token_ids
        self._logprobs += logprobs
        self._loss_mask += [chosen] * len(token_ids)

    def _require_room(self, tokens: int) -> None:
        if tokens > self.room:
            self._cut = True
            raise RolloutFull(f"{tokens} more tokens do not fit: {len(self._token_ids)} of {self._limit} are used")

    def _decode(self, token_ids: Sequence[int]) -> str:
        return completion_text(self._engine.tokenizer, token_ids, keep=self._sampling.keep_special_tokens)


def check_sample(sample: Sample) -> None:
    """What every engine must have seen to; checked once more, for a NaN here would poison every ratio in training.

    Raises RequestRejected.
    """
    if sample.finish_reason not in ("stop", "length"):
        raise RequestRejected("aborted", f"finish_reason {sample.finish_reason}")
    finite_T = np.isfinite(sample.logprobs)
    if not finite_T.all():
        position = int(np.argmin(finite_T))
        raise RequestRejected(
            "non_finite_logprob", f"{sample.logprobs[position]} at token {position} of {len(finite_T)}"
        )
