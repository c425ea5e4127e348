"""Log-probabilities under another model: every status, and against the transformers engine's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict

import numpy as np
import pytest

from pass_ops.shards import DatasetSpec
from pipelines.engines.base import EngineDead, RequestRejected
from pipelines.models.folder import VocabularyMismatchError, vocabulary
from pipelines.signals import SignalInputError, build_signal


class FakeEngine:
    """Answers -token/10; token 90 is impossible, 91 is NaN, 92 is refused, 93 kills the engine."""

    max_model_len = 8

    def score(self, token_ids: Sequence[int], *, start: int, temperature: float) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        asked = list(token_ids)[start:]
        if 92 in asked:
            future.set_exception(RequestRejected("request_failed", "no"))
        elif 93 in asked:
            future.set_exception(EngineDead("gone"))
        else:
            special = {90: -np.inf, 91: np.nan}
            future.set_result(np.array([special.get(token, -token / 10) for token in asked], dtype=np.float32))
        return future


@pytest.fixture
def signal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.engines.acquire", lambda model, options: FakeEngine())
    return build_signal("logprobs", {"model": "teacher"})


def found(table) -> list[tuple]:
    return list(zip(table["status"].to_pylist(), table["logprobs"].to_pylist(), strict=True))


def approx(values: Sequence[float]) -> object:
    return pytest.approx(values, abs=1e-7)


def test_every_status_in_one_part(signal, make_rollouts) -> None:
    rollouts = make_rollouts(
        {"ids": [5, 6]},
        {"ids": [5, 90, 6]},
        {"ids": [5, 90, 6], "loss_mask": [True, False, True]},
        {"ids": [5, 91]},
        {"ids": [1] * 7},
        {"ids": [1] * 6},
        {"ids": [92]},
        {"ids": []},
    )
    table = signal.score(rollouts, {})
    assert found(table) == [
        ("ok", approx([-0.5, -0.6])),
        ("neg_inf", None),
        ("ok", approx([-0.5, 0.0, -0.6])),
        ("error", None),
        ("too_long", None),
        ("ok", approx([-0.1] * 6)),
        ("error", None),
        ("ok", []),
    ]
    assert table["detail"].to_pylist() == [
        None,
        "-inf at completion token 1",
        None,
        "nan at completion token 1",
        "2 + 7 tokens, the model takes 8",
        None,
        "request_failed: no",
        None,
    ]


def test_a_dead_engine_is_no_status(signal, make_rollouts) -> None:
    with pytest.raises(EngineDead):
        signal.score(make_rollouts({"ids": [93]}), {})


def rollouts_spec(**carried) -> DatasetSpec:
    return DatasetSpec(
        stage="generate", stage_version=1, options={}, parts=1, carried={"sampling": {"group_size": 1}, **carried}
    )


def test_a_model_with_another_vocabulary_is_refused(tiny_model: str, tiny_model_factory) -> None:
    spec = rollouts_spec(vocabulary=asdict(vocabulary(tiny_model)))
    build_signal("logprobs", {"model": tiny_model}).check(spec, {})
    other = tiny_model_factory(seed=3, characters="abc")
    with pytest.raises(VocabularyMismatchError, match=r"another vocabulary \(5 tokens.*than the rollouts"):
        build_signal("logprobs", {"model": other}).check(spec, {})


def test_rollouts_without_a_recorded_vocabulary_are_refused(tiny_model: str) -> None:
    with pytest.raises(SignalInputError, match="names no vocabulary"):
        build_signal("logprobs", {"model": tiny_model}).check(rollouts_spec(), {})


def test_without_a_model_the_policy_scores(tiny_model: str, tiny_model_updated: str) -> None:
    signal = build_signal("logprobs", {})
    assert signal.for_policy(tiny_model, None) == build_signal("logprobs", {"model": tiny_model})
    named = build_signal("logprobs", {"model": tiny_model_updated})
    assert named.for_policy(tiny_model, None) == named
    with pytest.raises(SignalInputError, match="no model is given"):
        signal.models()


def test_the_model_counts_by_content_and_how_it_is_run_by_the_environment(
    tiny_model: str, tiny_model_updated: str
) -> None:
    options = {"engine": {"kind": "transformers"}}
    one, other = (build_signal("logprobs", {"model": model, **options}) for model in (tiny_model, tiny_model_updated))
    assert one.models()["scorer"].digest != other.models()["scorer"].digest
    assert one.environment() == other.environment()
    assert one.environment()["dtype"] == "float32"
    assert one.options() == {}


def test_the_stored_values_are_the_models_own(tiny_model: str, make_rollouts) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from pipelines.engines import release

    signal = build_signal("logprobs", {"model": tiny_model, "engine": {"kind": "transformers", "dtype": "float32"}})
    completion = [5, 9, 3, 1]
    try:
        table = signal.score(make_rollouts({"prompt_token_ids": [4, 7], "ids": completion}), {})
    finally:
        release()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[4, 7, *completion]])).logits[0, 1:-1]
    expected = torch.log_softmax(logits, dim=-1)[range(4), completion]
    assert table["logprobs"].to_pylist()[0] == pytest.approx(expected.tolist(), abs=1e-5)
