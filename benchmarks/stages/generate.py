"""The generate stage on an engine that costs nothing: processor time from an engine's answer to Parquet.

The engine gives prepared answers as fast as they are asked for. The stage is the part loop that workers run, without
Beam: it encodes prompts, derives seeds, asks, keeps every rollout in the journal, makes and checks the table, writes
and commits each part. What the engine's answers cost alone is subtracted. A line over several lengths, fitted by least
squares of relative errors, gives what a rollout costs and what a token.

Token ids are as likely as 1/id, log-probabilities exponential, texts four characters a token.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from pipelines.demo.assets import asset_folder
from pipelines.engines import EngineOptions, Sample, SampleRequest, Sampling
from pipelines.engines.driver import DrivenEngine
from pipelines.models.folder import load_tokenizer
from pipelines.parts.loop import PartLoop
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, generate_stage
from stages.measure import Line, in_turns, line

MODEL = str(asset_folder("policy"))  # for its tokenizer
VOCABULARY = 32_000
GROUP, PROMPTS_PER_PART, PROMPT_TOKENS = 8, 32, 100
#: tokens of a rollout -> parts
PARTS = {64: 16, 512: 4, 4096: 2}
PER_ROLLOUT, PER_TOKEN = 150.0, 0.2  # the goal, in microseconds
RATE, LENGTH, CORES = 100_000, 512, 0.1  # so many tokens/s in rollouts of such a length cost at most so many cores


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """A line for each length, then the fitted ones."""
    repeats, cost = (2 if quick else 7), {}
    for tokens, parts in PARTS.items():
        measured = Measured.prepared(folder / str(tokens), tokens=tokens, parts=parts, runs=repeats + 1)
        stage, bare = in_turns(repeats, measured.stage, measured.bare)
        cost[tokens] = 1e6 * (stage.processor - bare.processor) / measured.rollouts
        goal = PER_ROLLOUT + PER_TOKEN * tokens
        yield line(
            f"generate: a rollout of {tokens} tokens",
            value=cost[tokens],
            unit="processor us/rollout",
            against=f"the goal of {goal:.0f}",
            ratio=cost[tokens] / goal,
            limit=1.0,
            rollouts=measured.rollouts,
            us_per_token=round(cost[tokens] / tokens, 3),
            us_of_the_engine=round(1e6 * bare.processor / measured.rollouts, 2),
        )
    per_rollout, per_token = fitted(cost)
    for name, value, goal in (("rollout", per_rollout, PER_ROLLOUT), ("token", per_token, PER_TOKEN)):
        yield line(
            f"generate: per {name}",
            value=value,
            unit="processor us",
            against=f"the goal of {goal}",
            ratio=value / goal,
            limit=1.0,
        )
    cores = 1e-6 * RATE * (per_rollout / LENGTH + per_token)
    sizes = {"tokens_per_second": RATE, "tokens_a_rollout": LENGTH}
    yield line("generate: beside a GPU", value=cores, unit="cores", against="a core", ratio=cores, limit=CORES, **sizes)


def fitted(cost: dict[int, float]) -> tuple[float, float]:
    """The a and b of cost = a + b * tokens, with the least sum of squared relative errors."""
    tokens, costs = np.array(list(cost)), np.array(list(cost.values()))
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / costs, tokens / costs], axis=1), np.ones(len(cost)), rcond=None)
    return float(a), float(b)


class PreparedBackend:
    """Gives samples in turn, all that were asked for at once; see `pipelines.engines.driver.Backend`."""

    max_model_len = 8192
    vocab_size = VOCABULARY
    pools = False

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.tokenizer = load_tokenizer(MODEL)
        self._samples = samples
        self._asked: list[int] = []

    def add(self, key: int, request: SampleRequest) -> None:
        """Any request has the next sample."""
        assert len(request.prompt_token_ids) == PROMPT_TOKENS
        self._asked.append(key)

    def step(self) -> list[tuple[int, Sample]]:
        """All answers."""
        asked, self._asked = self._asked, []
        return [(key, self._samples[key % len(self._samples)]) for key in asked]

    def drop(self, keys: Collection[int]) -> None:
        """Nothing waits."""

    def load_weights(self, model: str) -> None:
        """It has none."""

    def sleep(self) -> None:
        """It holds nothing."""

    def wake(self, model: str) -> None:
        """It holds nothing."""

    def close(self) -> None:
        """It holds nothing."""


@dataclass(frozen=True)
class Measured:
    """Stages that are set up and wait to be run, one for each run, and the engine they ask."""

    rollouts: int
    loops: list[PartLoop]
    backend: PreparedBackend

    @classmethod
    def prepared(cls, folder: Path, *, tokens: int, parts: int, runs: int) -> Measured:
        """Rollouts of `tokens` tokens each in `parts` parts."""
        backend = PreparedBackend(made_up(GROUP * PROMPTS_PER_PART, tokens))
        engine = DrivenEngine(lambda: backend, model=MODEL, name="prepared")
        prompts = write_parts(folder, parts)
        loops = []
        for run in range(runs):
            stage = generate_stage(
                prompts=prompts,
                out=str(folder / f"rollouts-{run}"),
                model=MODEL,
                engine=EngineOptions(kind="recorded"),
                options=GenerateOptions(group_size=GROUP, sampling=Sampling(max_tokens=tokens)),
            )
            with mock.patch("pipelines.engines.acquire", return_value=engine):
                stage.work.setup()
            loops.append(PartLoop(dataset=stage.dataset, work=stage.work, parts_in_flight=None, max_attempts=3))
        return cls(parts * PROMPTS_PER_PART * GROUP, loops, backend)

    def stage(self) -> None:
        """All parts."""
        loop = self.loops.pop()
        for part in range(self.rollouts // (PROMPTS_PER_PART * GROUP)):
            loop.offer(part)
        loop.drain()

    def bare(self) -> None:
        """The backend alone, asked for as many."""
        request = SampleRequest(prompt_token_ids=[0] * PROMPT_TOKENS, seed=0, sampling=Sampling())
        for key in range(self.rollouts):
            self.backend.add(key, request)
        assert len(self.backend.step()) == self.rollouts


def made_up(count: int, tokens: int) -> list[Sample]:
    """So many different samples."""
    rng = np.random.default_rng(0)
    words = np.array([f"{i:03x} " for i in range(4096)])
    ids = (np.exp(rng.uniform(0, np.log(VOCABULARY), (count, tokens)))).astype(np.int32)
    logprobs = -rng.exponential(0.7, (count, tokens)).astype(np.float32)
    return [
        Sample(token_ids=one, logprobs=its, finish_reason="stop", text="".join(words[one % len(words)]))
        for one, its in zip(ids, logprobs, strict=True)
    ]


def write_parts(folder: Path, parts: int) -> str:
    """The prompts dataset; every prompt has PROMPT_TOKENS characters, which are its tokens."""
    folder.mkdir(parents=True)
    rows = [{"prompt": f"{i}+".ljust(PROMPT_TOKENS, "7"), "answer": "7"} for i in range(parts * PROMPTS_PER_PART)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = PromptSource(source=str(folder / "prompts.jsonl"), prompts_per_part=PROMPTS_PER_PART)
    write_prompts(source, out=str(folder / "prompts"))
    return str(folder / "prompts")
