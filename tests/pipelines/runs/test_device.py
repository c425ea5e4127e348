"""Rounds on one device: nothing is awake when the trainer starts, and one engine serves a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trainer
from pipelines.engines import DeviceHeldError, EngineAsleep, EngineOptions, SampleRequest, Sampling, acquire, release
from pipelines.engines.transformers import TransformersBackend
from pipelines.options import build
from pipelines.runs.config import RunConfig
from pipelines.runs.rounds import run_rounds
from pipelines.runs.run import Run

ENGINE = {"kind": "transformers", "max_num_seqs": 8}


@pytest.fixture(autouse=True)
def _start_and_end_without_an_engine() -> Iterator[None]:
    release()
    yield
    release()


@pytest.fixture
def run(tiny_model: str, tiny_model_updated: str, tmp_path: Path) -> Run:
    """Two rounds of one update, evaluated at another temperature than the rollouts are sampled at."""
    prompts = tmp_path / "sums.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{i}+1=?", "answer": str(i + 1)}) + "\n" for i in range(2)))
    table: dict[str, Any] = {
        "prompts": {"source": str(prompts)},
        "policy": {"model": tiny_model},
        "engine": ENGINE,
        "generate": {"group_size": 2, "sampling": {"max_tokens": 8}},
        "signals": {
            "outcome": {"signal": "outcome", "verifier": "number"},
            "teacher": {"signal": "logprobs", "model": tiny_model_updated},
            "opd": {"signal": "opd", "teacher": "teacher"},
        },
        "shape": {"process": "opd", "outcome": "outcome", "weights": {"format": 0.0}},
        "train": {"updates": 1, "warmup_steps": 0, "tensorboard": False, "device": "cpu"},
        "eval": {
            "samples": 1,
            "k": [1],
            "sampling": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 8},
            "benchmarks": {"held-out": {"source": str(prompts)}},
        },
    }
    return Run(config=build(RunConfig, table, where="test"), url=str(tmp_path / "run"))


def test_nothing_is_awake_when_training_starts_and_nothing_is_restarted(
    run: Run, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    started: list[int] = []
    train, start = trainer.train, TransformersBackend.__init__
    engine = acquire(tiny_model, EngineOptions(**ENGINE, logprobs_mode="either"))

    def watched_train(*arguments: Any, **options: Any) -> Any:
        asked = engine.submit(SampleRequest(prompt_token_ids=[5], seed=1, sampling=Sampling(max_tokens=1)))
        seen.append(type(asked.exception(timeout=120)).__name__)
        with pytest.raises(DeviceHeldError, match="the trainer has the device"):
            acquire(tiny_model, EngineOptions(**ENGINE))
        return train(*arguments, **options)

    def watched_start(self: Any, *arguments: Any) -> None:
        started.append(1)
        start(self, *arguments)

    monkeypatch.setattr(trainer, "train", watched_train)
    monkeypatch.setattr(TransformersBackend, "__init__", watched_start)
    run_rounds(run, 2)
    assert seen == [EngineAsleep.__name__] * 2
    assert started == [], "three policies at two temperatures and a teacher share one engine"
    assert not engine.dead
