"""What crosses between a node's client and its children: batches of requests and of answers, as numpy arrays.

A batch is one message however many tokens it holds: ids and log-probabilities lie end to end in one array each, so
pickling costs nothing per token. Legend: _B requests of a batch, _N tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engines.base import EngineOptions, RequestRejected, Sample, SampleRequest, Sampling
from pipelines.engines.driver import Answer, PoolRequest, Request, ScoreRequest

_SAMPLE, _SCORE, _POOL = range(3)
_WITH_STATISTICS = -3


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first message to a child. share: its place among so many children on the CPU, None on a GPU."""

    model: str
    options: EngineOptions
    share: tuple[int, int] | None


@dataclass(frozen=True)
class Ready:
    """The first message from a child whose engine runs."""

    max_model_len: int
    vocab_size: int


@dataclass(frozen=True)
class Order:
    """load_weights, sleep, wake or close, with the model's folder where one is needed; answered by `Done`."""

    name: str
    model: str | None = None


@dataclass(frozen=True)
class Done:
    """What was ordered is done, or why it, or the start, failed."""

    error: Exception | None = None


@dataclass(frozen=True)
class Drop:
    """Requests whose answers nobody waits for; see `Engine.drop`."""

    keys: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """A batch of requests; number: a sample's seed, a score's start; temperature: a score's."""

    keys_B: NDArray[np.int64]
    kind_B: NDArray[np.int8]
    length_B: NDArray[np.int64]
    ids_N: NDArray[np.int32]
    number_B: NDArray[np.int64]
    temperature_B: NDArray[np.float64]
    sampling_B: NDArray[np.int32]
    samplings: tuple[Sampling, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A batch of answers. A sample's rows are its tokens; those of scores and classes are [positions, width_B].

    width_B: 0 for a sample, -1 for scores, -3 for a sample with statistics, whose values follow its logprobs. rejected:
    key -> rejection, for requests that have no row here.
    """

    keys_B: NDArray[np.int64]
    width_B: NDArray[np.int32]
    length_B: NDArray[np.int64]
    ids_N: NDArray[np.int32]
    values_N: NDArray[np.float32]
    finish_reasons: tuple[str, ...]
    texts: tuple[str, ...]
    rejected: dict[int, RequestRejected]


def pack_requests(requests: Iterable[tuple[int, Request]]) -> Requests:
    """One message of (key, request) pairs."""
    keys, kinds, ids, numbers, temperatures, uses = [], [], [], [], [], []
    places: dict[int, int] = {}  # id of a Sampling -> its place; many requests share one object
    samplings: list[Sampling] = []
    for key, request in requests:
        keys.append(key)
        temperatures.append(request.temperature if isinstance(request, ScoreRequest) else 1.0)
        if isinstance(request, SampleRequest):
            place = places.setdefault(id(request.sampling), len(samplings))
            if place == len(samplings):
                samplings.append(request.sampling)
            kinds.append(_SAMPLE)
            ids.append(_int32(request.prompt_token_ids))
            numbers.append(int(request.seed))
            uses.append(place)
        else:
            kinds.append(_SCORE if isinstance(request, ScoreRequest) else _POOL)
            ids.append(_int32(request.token_ids))
            numbers.append(request.start if isinstance(request, ScoreRequest) else 0)
            uses.append(-1)
    return Requests(
        keys_B=np.array(keys, np.int64),
        kind_B=np.array(kinds, np.int8),
        length_B=np.array([len(one) for one in ids], np.int64),
        ids_N=_joined(ids, np.int32),
        number_B=np.array(numbers, np.int64),
        temperature_B=np.array(temperatures, np.float64),
        sampling_B=np.array(uses, np.int32),
        samplings=tuple(samplings),
    )


def unpack_requests(batch: Requests) -> Iterator[tuple[int, Request]]:
    """The pairs that were packed, token ids as arrays."""
    ends = np.cumsum(batch.length_B)
    rows = zip(
        batch.keys_B.tolist(), batch.kind_B.tolist(), ends.tolist(), batch.length_B.tolist(), batch.number_B.tolist(),
        batch.temperature_B.tolist(), batch.sampling_B.tolist(), strict=True,
    )  # fmt: skip
    for key, kind, end, length, number, temperature, place in rows:
        ids: Any = batch.ids_N[end - length : end]
        if kind == _SAMPLE:
            yield key, SampleRequest(prompt_token_ids=ids, seed=number, sampling=batch.samplings[place])
        elif kind == _SCORE:
            yield key, ScoreRequest(token_ids=ids, start=number, temperature=temperature)
        else:
            yield key, PoolRequest(token_ids=ids)


def pack_answers(answers: Iterable[tuple[int, Answer]]) -> Answers:
    """One message of (key, answer) pairs."""
    keys, widths, lengths, ids, values = [], [], [], [], []
    finish_reasons, texts = [], []
    rejected = {}
    for key, answer in answers:
        if isinstance(answer, RequestRejected):
            rejected[key] = answer
            continue
        keys.append(key)
        if isinstance(answer, Sample):
            widths.append(0 if answer.statistics is None else _WITH_STATISTICS)
            lengths.append(len(answer.token_ids))
            ids.append(_int32(answer.token_ids))
            values += [answer.logprobs] if answer.statistics is None else [answer.logprobs, answer.statistics.ravel()]
            finish_reasons.append(answer.finish_reason)
            texts.append(answer.text)
        else:
            widths.append(answer.shape[1] if answer.ndim == 2 else -1)
            lengths.append(len(answer))
            values.append(answer.ravel())
    return Answers(
        keys_B=np.array(keys, np.int64),
        width_B=np.array(widths, np.int32),
        length_B=np.array(lengths, np.int64),
        ids_N=_joined(ids, np.int32),
        values_N=_joined(values, np.float32),
        finish_reasons=tuple(finish_reasons),
        texts=tuple(texts),
        rejected=rejected,
    )


def unpack_answers(batch: Answers) -> Iterator[tuple[int, Answer]]:
    """The pairs that were packed. Arrays are copies, so that keeping one answer does not keep the batch."""
    token = value = 0
    samples = iter(zip(batch.finish_reasons, batch.texts, strict=True))
    rows = zip(batch.keys_B.tolist(), batch.width_B.tolist(), batch.length_B.tolist(), strict=True)
    for key, width, length in rows:
        count = length * (3 if width == _WITH_STATISTICS else max(width, 1))
        values = batch.values_N[value : value + count].copy()
        value += count
        if width not in (0, _WITH_STATISTICS):
            yield key, values.reshape(length, width) if width > 0 else values
            continue
        finish_reason, text = next(samples)
        ids = batch.ids_N[token : token + length].copy()
        token += length
        statistics = values[length:].reshape(2, length).copy() if width else None
        logprobs = values if statistics is None else values[:length].copy()
        yield (
            key,
            Sample(token_ids=ids, logprobs=logprobs, finish_reason=finish_reason, text=text, statistics=statistics),
        )
    yield from batch.rejected.items()


def _int32(ids: Sequence[int] | NDArray[Any]) -> NDArray[np.int32]:
    return np.asarray(ids, dtype=np.int32)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type[Any]) -> NDArray[Any]:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.empty(0, dtype)
