"""What is packed for a child, or by one, arrives as it was."""

from __future__ import annotations

import pickle

import numpy as np

from pipelines.engines import RequestRejected, Sample, SampleRequest, Sampling
from pipelines.engines.driver import Answer, PoolRequest, Request, ScoreRequest
from pipelines.engines.node_wire import pack_answers, pack_requests, unpack_answers, unpack_requests

SHORT, LONG = Sampling(max_tokens=1, stop=("x",)), Sampling(max_tokens=9, extra={"min_tokens": 2})


def plain(request: Request) -> tuple[object, ...]:
    if isinstance(request, SampleRequest):
        return "sample", list(request.prompt_token_ids), request.seed, request.sampling
    if isinstance(request, ScoreRequest):
        return "score", list(request.token_ids), request.start, request.temperature
    return "pool", list(request.token_ids)


def test_requests_of_every_kind_arrive_in_order_with_their_own_sampling() -> None:
    sent: list[tuple[int, Request]] = [
        (7, SampleRequest(prompt_token_ids=[1, 2, 3], seed=2**63 - 1, sampling=SHORT)),
        (3, ScoreRequest(token_ids=np.array([4, 5], np.int32), start=1, temperature=0.7)),
        (9, SampleRequest(prompt_token_ids=(6,), seed=0, sampling=LONG)),
        (1, PoolRequest(token_ids=[])),
        (2, SampleRequest(prompt_token_ids=[8], seed=1, sampling=SHORT)),
    ]
    batch = pickle.loads(pickle.dumps(pack_requests(sent)))
    assert [(key, plain(request)) for key, request in unpack_requests(batch)] == [(k, plain(r)) for k, r in sent]
    assert batch.samplings == (SHORT, LONG), "one that many share crosses once"


def test_answers_of_every_kind_arrive_and_hold_no_more_than_their_own() -> None:
    sample = Sample(
        token_ids=np.array([5, 6], np.int32), logprobs=np.array([-1, -2], np.float32), finish_reason="stop", text="é"
    )
    empty = Sample(token_ids=np.empty(0, np.int32), logprobs=np.empty(0, np.float32), finish_reason="length", text="")
    scores, classes = np.array([-0.5], np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    single = np.ones((2, 1), np.float32)
    sent: list[tuple[int, Answer]] = [
        (1, scores), (2, sample), (3, classes), (4, RequestRejected("aborted", "why", transient=True)), (5, empty),
        (6, single), (7, np.empty((0, 2), np.float32)),
    ]  # fmt: skip
    found = dict(unpack_answers(pickle.loads(pickle.dumps(pack_answers(sent)))))
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
    for key, expected in sent:
        got = found[key]
        if isinstance(expected, RequestRejected):
            assert (got.reason, got.detail, got.transient) == ("aborted", "why", True)
        elif isinstance(expected, Sample):
            assert (got.token_ids.tolist(), got.logprobs.tolist()) == (
                expected.token_ids.tolist(), expected.logprobs.tolist(),
            )  # fmt: skip
            assert (got.finish_reason, got.text) == (expected.finish_reason, expected.text)
            assert (got.token_ids.dtype, got.logprobs.dtype) == (np.int32, np.float32)
            assert got.token_ids.base is None
        else:
            assert got.shape == expected.shape
            assert got.tolist() == expected.tolist()
            assert got.dtype == np.float32


def test_a_batch_without_requests_is_one() -> None:
    assert list(unpack_requests(pack_requests([]))) == []
    assert list(unpack_answers(pack_answers([]))) == []
