"""Signal `judge`: a chat model grades every step."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from annotated_types import Ge, Le
from pydantic import Strict

from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.engines.base import EngineOptions, RequestRejected, Sampling
from pipelines.engines.environment import engine_environment
from pipelines.engines.gpu_defaults import seats
from pipelines.models.folder import chat_template_digest, load_tokenizer, model_digest, tensor_shapes, tokenizer_digest
from pipelines.models.source import pinned_model
from pipelines.options import Secret, Url, options, secret
from pipelines.options.types import Seconds, Tries, Workers
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.chat import CachedChat, Chat, EngineChat, KeptChat, Reply, shared_http_chat
from pipelines.signals.grades import read_grade
from pipelines.signals.kept import AskingSignal, in_turn
from pipelines.signals.steps import Steps
from pipelines.signals.stepwise import EMPTY, STEP_COLUMNS, StepwiseSignal, tasks

TEMPLATE = """Grade one step of a solution.

Task:
{prompt}

Steps before it:
{previous}

The step:
{step}

Is this step right, given the task and the steps before it, and does it bring the solution forward? Think briefly.
End with a line that reads "Score: N", N a whole number from 0 (wrong or useless) to 10 (right and useful)."""
ANSWER = r"Score:\s*(\d+)\s*\Z"  # stands for `read_grade`, which reads this form and those that models use besides
RETRY_TEMPERATURE = 0.7  # a greedy judge asked again would say the same again
_PLACES = re.compile(r"\{(prompt|previous|step|number)\}")


@options(SignalOptionError)
class JudgeSignal(StepwiseSignal, AskingSignal):
    """A chat model's grade of each step, scaled to 0..1; the row's detail says how many tokens the replies cost."""

    kind: ClassVar[str] = "process_steps"
    operational: ClassVar[frozenset[str]] = frozenset({"api_key", "cache", "concurrency", "timeout_s", "retries"})

    model: Url
    """The judge's folder, run here with its own chat template; with url the model's name there. Example:
    "my/judge"."""
    url: Url | None = None
    """Base URL of an OpenAI-compatible server (default: the model runs here). Example: "http://host:8000/v1"."""
    api_key: Secret | None = None
    """The server's key, as env:NAME. Example: "env:JUDGE_KEY"."""
    engine: EngineOptions | None = None
    """How a model that runs here is run, with the keys of [engine] (default: kind, device, dtype and use of the machine
    as [engine] says)."""
    template: str = TEMPLATE
    """The message about one step, with {prompt}, {previous} (the steps before it, a blank line between), {step} and
    {number} (from 1)."""
    system: str | None = None
    """A system message before it. Example: "You are a strict grader."."""
    answer: str = ANSWER
    """Regular expression to be found in a reply; its group 1 is the grade. The default stands for the forms that chat
    models write a grade in (**Score: 8**, 8/10, Rating: [[8]], {"score": 8}), as long as it is clear which it is."""
    scale: Annotated[tuple[float, float], Strict(False)] = (0.0, 10.0)
    """[lowest, highest] grade; a grade outside counts as none."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=512))
    """How replies are drawn, with the keys of [generate.sampling] (default: greedily, at most 512 tokens)."""
    attempts: Tries = 3
    """How often a step is asked about until a reply has a grade, each time with another seed, and warmer where sampling
    is greedy; then the row is null with status error."""
    seed: int = 0
    """Seed of the replies."""
    cache: Url | None = None
    """Folder or URL where replies are kept by the content of what was asked. Example: "runs/judge-cache"."""
    concurrency: Workers = 16
    """Requests to the server under way at once."""
    timeout_s: Seconds = 120.0
    """Seconds after which a request to the server is given up."""
    retries: Annotated[int, Ge(0), Le(1000)] = 4
    """How often a request that failed is sent again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{step}" not in self.template:
            raise SignalOptionError("template has no {step}: the judge would grade nothing")
        try:
            groups = re.compile(self.answer).groups
        except re.error as error:
            raise SignalOptionError(f"answer {self.answer!r} is no regular expression: {error}") from error
        if groups < 1:
            raise SignalOptionError(f"answer is {self.answer!r}; it needs a group that holds the grade")
        if not self.scale[0] < self.scale[1]:
            raise SignalOptionError(f"scale is {list(self.scale)}; give [lowest, highest]")

    @property
    def _engine(self) -> EngineOptions:
        return replace(self.engine or EngineOptions(), logprobs_mode="either")

    def run_with(self, engine: EngineOptions) -> Self:
        """As a model beside the policy, where no engine is given, and on its device, where none is."""
        own = engine.for_another_model() if self.engine is None else self.engine.on_device_of(engine)
        return replace(self, engine=own)

    def engines(self) -> Mapping[str, EngineOptions]:
        """The judge, where it runs here."""
        return {} if self.url else {self.model: self._engine}

    def options(self) -> dict[str, Any]:
        """Of a model folder the digest counts, not its place."""
        options = {**super().options(), "sampling": self.sampling.as_values()}
        return {name: value for name, value in options.items() if name != "engine" and (self.url or name != "model")}

    def models(self) -> dict[str, ModelRef]:
        """The judge, where it runs here."""
        return {} if self.url else {"judge": ModelRef(pinned_model(self.model), model_digest(self.model))}

    def environment(self) -> dict[str, Any]:
        """The engine's libraries, dtype and device, where it runs here."""
        if self.url:
            return {}
        digests = {"tokenizer": tokenizer_digest(self.model), "chat_template": chat_template_digest(self.model)}
        return engine_environment(self.model, self._engine) | {
            f"judge_{name}": digest for name, digest in digests.items()
        }

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The secret is there; or the model folder has weights and a chat template."""
        if self.url is not None:
            self._secret()
            return
        tensor_shapes(self.model)
        if not load_tokenizer(self.model).chat_template:
            raise SignalOptionError(f"{self.model} has no chat template, so it cannot be asked; give a chat model")

    @property
    def reads(self) -> tuple[str, ...]:
        """What steps are cut from, and the group, which is the prompt's."""
        return STEP_COLUMNS

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask about every distinct step of the part; what could not be read is asked again.

        A question is made when it is asked: those about one rollout are together as long as its steps squared.
        """
        wanted, cuts = tasks(rollouts, inputs["prompts"]), self.cut(rollouts)
        places: dict[bytes, tuple[int, int]] = {}  # a question's digest -> rollout and step that it is first about
        asked: list[list[bytes]] = []
        for row, steps in enumerate(cuts):
            numbers = range(len(steps.texts) if steps.ends else 0)
            asked.append([_digest(self.question(wanted[row], steps.texts, number)) for number in numbers])
            for number, key in enumerate(asked[-1]):
                places.setdefault(key, (row, number))

        def question(key: bytes) -> str:
            row, number = places[key]
            return self.question(wanted[row], cuts[row].texts, number)

        grades = self._grades(list(places), question)
        rows = [_row([grades[key] for key in keys], steps) for keys, steps in zip(asked, cuts, strict=True)]
        return sidecar(self.kind, rollouts, rows)

    def question(self, task: str, steps: Sequence[str], number: int) -> str:
        """The message about step `number`, from 0."""
        words = {"prompt": task, "previous": "\n\n".join(steps[:number]), "step": steps[number]}
        return _PLACES.sub(lambda place: str((words | {"number": number + 1})[place[1]]), self.template)

    def grade(self, text: str) -> float | None:
        """The grade that a reply gives, scaled to 0..1; None where it gives none."""
        lowest, highest = self.scale
        if self.answer == ANSWER:
            grade = read_grade(text, lowest=lowest, highest=highest)
            return None if grade is None else (grade - lowest) / (highest - lowest)
        found = re.search(self.answer, text)
        try:
            value = float(found[1]) if found else math.nan
        except (TypeError, ValueError):
            return None
        return (value - lowest) / (highest - lowest) if lowest <= value <= highest else None

    def _grades(self, keys: Sequence[bytes], question: Callable[[bytes], str]) -> dict[bytes, _Grade]:
        """The grade of each question, by its digest."""
        chat, at_once = self._chat(), self._at_once()
        grades = {key: _Grade(failure="not asked") for key in keys}
        for attempt in range(self.attempts):
            left = [key for key in keys if grades[key].score is None]
            ask = partial(self._ask, chat, question, attempt)
            for key, future in in_turn(ask, left, at_once=at_once):
                grades[key] = self._graded(grades[key], future)
        return grades

    def _at_once(self) -> int:
        """So many questions are open: twice what the judge answers at a time, so that it never waits for the next."""
        if self.url is not None:
            return 2 * self.concurrency
        from pipelines.engines import acquire

        return 2 * acquire(self.model, self._engine).width * seats(self.model, self._engine)

    def _ask(self, chat: Chat, question: Callable[[bytes], str], attempt: int, key: bytes) -> Future[Reply]:
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": question(key)})
        warmer = attempt > 0 and self.sampling.temperature == 0
        sampling = replace(self.sampling, temperature=RETRY_TEMPERATURE) if warmer else self.sampling
        return chat.ask(messages, seed=self.seed + attempt, sampling=sampling)

    def _graded(self, before: _Grade, future: Future[Reply]) -> _Grade:
        try:
            reply = future.result()
        except RequestRejected as rejected:
            return replace(before, failure=str(rejected))
        score = self.grade(reply.text)
        return _Grade(
            score=score,
            prompt_tokens=before.prompt_tokens + reply.prompt_tokens,
            completion_tokens=before.completion_tokens + reply.completion_tokens,
            failure="" if score is not None else f"no grade in {reply.text[-80:]!r}",
        )

    def _chat(self) -> Chat:
        if self.url is None:
            from pipelines.engines import acquire

            chat: Chat = EngineChat(acquire(self.model, self._engine))
            identity = model_digest(self.model)
        else:
            chat = shared_http_chat(
                self.url,
                model=self.model,
                api_key=self._secret(),
                concurrency=self.concurrency,
                timeout_s=self.timeout_s,
                retries=self.retries,
            )
            identity = f"{self.url} {self.model}"
        if self.cache is None:
            return KeptChat(chat, self._answers)
        return CachedChat(chat, folder=self.cache, identity=identity)  # keeps them anyway

    def _secret(self) -> str | None:
        return None if self.api_key is None else secret(self.api_key, key="api_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grade:
    """score: None where no reply could be read; tokens: what all replies cost; failure: the last one's."""

    score: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failure: str


def _digest(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()


def _row(grades: Sequence[_Grade], steps: Steps) -> Row:
    if not steps.ends:
        return EMPTY
    cost = {
        "prompt_tokens": sum(grade.prompt_tokens for grade in grades),
        "completion_tokens": sum(grade.completion_tokens for grade in grades),
    }
    for number, grade in enumerate(grades):
        if grade.score is None:
            return Row("error", json.dumps({"step": number, "failure": grade.failure, **cost}))
    return Row(
        detail=json.dumps(cost),
        values={"process_scores": [grade.score for grade in grades], "process_ends": steps.ends},
    )
