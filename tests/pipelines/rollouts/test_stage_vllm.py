"""Generate on a real vLLM engine: parts overlap in flight, and what is stored is what was sampled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import pipelines.engines
from pass_ops import shards
from pipelines.engines.base import EngineOptions, Sample, SampleRequest, Sampling
from pipelines.models.folder import load_tokenizer
from pipelines.parts.operations import Operations
from pipelines.rollouts.stage import GenerateOptions, generate

# As the engine tests start it: in one process with them no further engine is started.
ENGINE = EngineOptions(kind="vllm", dtype="float32", kv_cache_gib=0.25, max_num_seqs=32)
# No end token: every rollout takes all its steps, so the first part is under way for as many.
OPTIONS = GenerateOptions(group_size=4, sampling=Sampling(max_tokens=100, ignore_eos=True))
PROMPTS_PER_PART = 4
PART_OF = {f"{i}+{i}=?": i // PROMPTS_PER_PART for i in range(2 * PROMPTS_PER_PART)}


class Watched:
    """The engine, with a record of which prompt was submitted and completed when.

    The last request of the part that comes first waits until the other part has asked: however late that one is, it is
    asked for meanwhile, unless parts take turns.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.max_model_len = engine.max_model_len
        self.events: list[tuple[str, str]] = []
        self.both_asked = threading.Event()

    def submit(self, request: SampleRequest) -> Future[Sample]:
        prompt = self.tokenizer.decode(request.prompt_token_ids)
        self.events.append(("submitted", prompt))
        asked = [PART_OF[prompt] for what, prompt in list(self.events) if what == "submitted"]
        if len(set(asked)) == len(set(PART_OF.values())):
            self.both_asked.set()
        elif len(asked) == PROMPTS_PER_PART * OPTIONS.group_size:
            self.both_asked.wait(timeout=120)
        future = self.engine.submit(request)
        future.add_done_callback(lambda _: self.events.append(("completed", prompt)))
        return future


def test_the_second_part_is_submitted_before_the_first_ones_last_rollout_is_there(
    tmp_path: Path, tiny_model: str, write_sums: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Watched] = []
    acquire = pipelines.engines.acquire

    def watch(model: str, options: EngineOptions) -> Watched:
        watched.append(Watched(acquire(model, options)))
        return watched[-1]

    monkeypatch.setattr(pipelines.engines, "acquire", watch)
    out = str(tmp_path / "rollouts")
    generate(
        prompts=write_sums(2 * PROMPTS_PER_PART, prompts_per_part=PROMPTS_PER_PART),
        out=out,
        model=tiny_model,
        engine=ENGINE,
        options=OPTIONS,
        operations=Operations(parts_in_flight=2),
    )
    (engine,) = watched
    events = [(what, PART_OF[prompt]) for what, prompt in engine.events]
    first = events[0][1]
    assert events.index(("submitted", 1 - first)) < len(events) - 1 - events[::-1].index(("completed", first))
    tokenizer = load_tokenizer(tiny_model)
    for part in range(2):
        for row in shards.open_dataset(out).read_part(part).to_pylist():
            assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
            assert len(row["token_ids"]) == len(row["behavior_logprobs"]) == 100
            assert row["finish_reason"] == "length"
