"""Answers without a model: from a recording, or made up by a hash. For tests of everything around an engine.

A recording is a Parquet or JSONL file with the columns prompt_token_ids, seed, token_ids, finish_reason and
behavior_logprobs; a part of a `rollouts` dataset is one. "synthetic:SEED" makes completions up: a pure function of
(SEED, prompt ids, the rollout's seed), so any two processes agree; stop strings are not looked for. `extra`: latency,
seconds from a request to its answer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptionError, EngineOptions, RequestRejected, Sample, SampleRequest
from pipelines.engines.driver import Answer, DrivenEngine, PoolRequest, Request, ScoreRequest
from pipelines.engines.text import TokenIds, completion_text
from pipelines.models.folder import load_tokenizer, read_config

SYNTHETIC = "synthetic:"
TYPICAL_LENGTH = 32  # of made-up completions, in tokens; log-normal around it
COLUMNS = ("prompt_token_ids", "seed", "token_ids", "behavior_logprobs", "finish_reason")
POLL_SECONDS = 0.005  # how long a new request may wait while the driver sleeps for an older one


class RecordingError(PassError, ValueError):
    """The file given as `recording` is missing, unreadable or lacks a column."""


def start(model: str, options: EngineOptions) -> DrivenEngine:
    """An engine that needs of the folder only tokenizer and config. Raises EngineOptionError, RecordingError."""
    return DrivenEngine(lambda: RecordedBackend(model, options), model=model, name="recorded")


def synthetic_sample(
    request: SampleRequest, *, seed: int, vocabulary: NDArray[np.int32], end_id: int, room: int
) -> Sample:
    """A made-up completion (its text is empty): plausible length, tokens of `vocabulary`, exponential logprobs."""
    rng = _generator("sample", seed, request.prompt_token_ids, request.seed)
    limit = min(request.sampling.max_tokens, room)
    wanted = int(rng.lognormal(np.log(TYPICAL_LENGTH), 0.5)) + 1
    stopped = wanted <= limit and not request.sampling.ignore_eos
    length = min(wanted, limit)
    token_ids = rng.choice(vocabulary, size=length)
    if stopped:
        token_ids[-1] = end_id
    logprobs = -rng.exponential(0.7, size=length)
    return Sample(
        token_ids=token_ids,
        logprobs=logprobs.astype(np.float32),
        finish_reason="stop" if stopped else "length",
        text="",
    )


def synthetic_classes(request: PoolRequest, *, seed: int) -> NDArray[np.float32]:
    """Made-up logits of two classes at every token."""
    rng = _generator("pool", seed, request.token_ids, 0)
    return rng.normal(size=(len(request.token_ids), 2)).astype(np.float32)


def synthetic_scores(request: ScoreRequest, *, seed: int) -> NDArray[np.float32]:
    """Made-up logprobs of the tokens from `start` on; a longer sequence agrees with its prefix."""
    rng = _generator("score", seed, request.token_ids[:1], 0)
    noise_T = rng.exponential(0.7, size=len(request.token_ids))
    weights_T = 1 + np.asarray(request.token_ids) % 7 / 10
    return (-noise_T * weights_T)[request.start :].astype(np.float32)


class RecordedBackend:
    """A recording or a hash behind the driver's five calls; see `driver.Backend`."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        unknown = set(options.extra) - {"latency"}
        if unknown:
            raise EngineOptionError(f"extra.{min(unknown)} is no option of the recorded engine; it has latency.")
        config = read_config(model)
        self.tokenizer = load_tokenizer(model)
        self.vocab_size = int(config["vocab_size"])
        self.max_model_len = options.max_model_len or int(config["max_position_embeddings"])
        self._latency = float(options.extra.get("latency", 0.0))
        self._due: deque[tuple[float, int, Answer]] = deque()
        self.pools = options.pooling is not None
        recording = options.recording or SYNTHETIC + "0"
        if recording.startswith(SYNTHETIC):
            self._answer = self._synthetic(_synthetic_seed(recording))
        else:
            self._answer = self._recorded(read_recording(recording))

    def add(self, key: int, request: Request) -> None:
        """Look the answer up; it is due `latency` from now."""
        if isinstance(request, ScoreRequest):
            request.at_one()
        self._due.append((time.monotonic() + self._latency, key, self._answer(request)))

    def step(self) -> list[tuple[int, Answer]]:
        """What is due by now."""
        if self._due and (wait := self._due[0][0] - time.monotonic()) > 0:
            time.sleep(min(wait, POLL_SECONDS))
        ready = []
        while self._due and self._due[0][0] <= time.monotonic():
            ready.append(self._due.popleft()[1:])
        return ready

    def drop(self, keys: Collection[int]) -> None:
        """Forget them."""
        self._due = deque(due for due in self._due if due[1] not in keys)

    def load_weights(self, model: str) -> None:
        """Nothing: answers do not depend on weights."""

    def sleep(self) -> None:
        """Nothing is held."""

    def wake(self, model: str) -> None:
        """Nothing: answers do not depend on weights."""

    def close(self) -> None:
        """Nothing is held."""

    def _synthetic(self, seed: int) -> Callable[[Request], Answer]:
        end_id = int(self.tokenizer.eos_token_id)
        special = set(self.tokenizer.all_special_ids)
        ids = sorted(i for i in self.tokenizer.get_vocab().values() if i not in special)
        vocabulary = np.asarray(ids, dtype=np.int32)

        def answer(request: Request) -> Answer:
            if isinstance(request, ScoreRequest):
                return synthetic_scores(request, seed=seed)
            if isinstance(request, PoolRequest):
                return synthetic_classes(request, seed=seed)
            room = self.max_model_len - len(request.prompt_token_ids)
            sample = synthetic_sample(request, seed=seed, vocabulary=vocabulary, end_id=end_id, room=room)
            return self._with_text(sample, request)

        return answer

    def _recorded(self, samples: dict[tuple[tuple[int, ...], int], Sample]) -> Callable[..., Answer]:
        scores = {(prompt + tuple(s.token_ids.tolist()), len(prompt)): s.logprobs for (prompt, _), s in samples.items()}

        def answer(request: Request) -> Answer:
            if isinstance(request, ScoreRequest):
                found: Any = scores.get((tuple(map(int, request.token_ids)), request.start))
            elif isinstance(request, PoolRequest):
                found = None
            else:
                found = samples.get((tuple(map(int, request.prompt_token_ids)), request.seed))
            if found is None:
                return RequestRejected("not_recorded", "the recording holds no such request")
            return self._with_text(found, request) if isinstance(request, SampleRequest) else found

        return answer

    def _with_text(self, sample: Sample, request: SampleRequest) -> Sample:
        keep = request.sampling.keep_special_tokens
        return replace(sample, text=completion_text(self.tokenizer, sample.token_ids, keep=keep))


def read_recording(path: str) -> dict[tuple[tuple[int, ...], int], Sample]:
    """(prompt ids, seed) -> sample, without texts. Raises RecordingError."""
    try:
        rows = _read_parquet(path) if path.endswith(".parquet") else _read_jsonl(path)
        return {(tuple(row["prompt_token_ids"]), int(row["seed"])): _recorded_sample(row) for row in rows}
    except KeyError as e:
        raise RecordingError(f"recording {path} has no column {e}; it needs {', '.join(COLUMNS)}.") from e
    except (OSError, ValueError) as e:
        raise RecordingError(
            f"recording {path} cannot be read: {e}. Give a Parquet or JSONL file, or synthetic:SEED."
        ) from e


def _recorded_sample(row: dict[str, Any]) -> Sample:
    return Sample(
        token_ids=np.asarray(row["token_ids"], dtype=np.int32),
        logprobs=np.asarray(row["behavior_logprobs"], dtype=np.float32),
        finish_reason=row["finish_reason"],
        text="",
    )


def _read_parquet(path: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = [name for name in file.schema_arrow.names if name in COLUMNS]
        rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
        return rows


def _read_jsonl(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _synthetic_seed(recording: str) -> int:
    text = recording.removeprefix(SYNTHETIC)
    if not text.isdigit():
        raise EngineOptionError(
            f"recording is {recording!r}; after synthetic: stands a whole number, as in synthetic:7."
        )
    return int(text)


def _generator(purpose: str, seed: int, prompt_token_ids: TokenIds, rollout_seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{purpose} {seed} {rollout_seed} ".encode())
    digest.update(np.asarray(prompt_token_ids, dtype="<i4").tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest()[:16], "little")))
