"""Signal `judge`: a chat model grades every step."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pyarrow as pa

from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.engines.base import EngineOptions, RequestRejected, Sampling
from pipelines.engines.environment import engine_environment
from pipelines.models.folder import chat_template_digest, load_tokenizer, model_digest, tokenizer_digest
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.chat import CachedChat, Chat, EngineChat, Reply, shared_http_chat
from pipelines.signals.steps import Steps
from pipelines.signals.stepwise import EMPTY, StepwiseSignal, tasks

TEMPLATE = """Grade one step of a solution.

Task:
{prompt}

Steps before it:
{previous}

The step:
{step}

Is this step right, given the task and the steps before it, and does it bring the solution forward? Think briefly.
End with a line that reads "Score: N", N a whole number from 0 (wrong or useless) to 10 (right and useful)."""
RETRY_TEMPERATURE = 0.7  # a greedy judge asked again would say the same again
_PLACES = re.compile(r"\{(prompt|previous|step|number)\}")


@dataclass(frozen=True, kw_only=True)
class JudgeSignal(StepwiseSignal):
    """process_scores: the judge's grade of each step, scaled to 0..1. detail: the tokens its replies cost, as JSON.

    model: a folder, run by `engine` with its own chat template; or with url (an OpenAI-compatible base such as
    http://host:8000/v1) the model's name there, and api_key = "env:NAME" where the server wants one. template: the
    message, with {prompt}, {previous} (the steps before, a blank line between), {step} and {number} (from 1); system:
    a system message. answer: regular expression that must match in the reply, its group 1 the grade: a number within
    scale = [lowest, highest]. A reply that does not is asked for again, attempts times in all, each with another seed
    and, where sampling is greedy, at RETRY_TEMPERATURE; then the row is null with status error.
    cache: a folder where replies are kept by the content of what was asked.
    concurrency: requests under way at the URL. timeout_s, retries: of one request there.
    """

    kind: ClassVar[str] = "process_steps"
    operational: ClassVar[frozenset[str]] = frozenset({"api_key", "cache", "concurrency", "timeout_s", "retries"})

    model: str
    url: str | None = None
    api_key: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    template: str = TEMPLATE
    system: str | None = None
    answer: str = r"Score:\s*(\d+)\s*\Z"
    scale: tuple[float, float] = (0.0, 10.0)
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0, max_tokens=512))
    attempts: int = 3
    seed: int = 0
    cache: str | None = None
    concurrency: int = 16
    timeout_s: float = 120.0
    retries: int = 4

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
        if not (math.isfinite(sum(self.scale)) and self.scale[0] < self.scale[1]):
            raise SignalOptionError(f"scale is {list(self.scale)}; give [lowest, highest]")
        if self.api_key is not None and not self.api_key.startswith("env:"):
            raise SignalOptionError("api_key: secrets are given as env:NAME only, so that none is printed or stored")
        if self.url is not None and (urlsplit(self.url).password or urlsplit(self.url).username):
            raise SignalOptionError('url holds a user or password; give it as api_key = "env:NAME"')
        if min(self.attempts, self.concurrency, self.retries + 1) < 1 or not self.timeout_s > 0:
            raise SignalOptionError("attempts and concurrency are at least 1, retries at least 0, timeout_s over 0")

    def options(self) -> dict[str, Any]:
        """Of a model folder the digest counts, not its place."""
        options = {**super().options(), "sampling": asdict(self.sampling)}
        return {name: value for name, value in options.items() if name != "engine" and (self.url or name != "model")}

    def models(self) -> dict[str, ModelRef]:
        """The judge, where it runs here."""
        return {} if self.url else {"judge": ModelRef(self.model, model_digest(self.model))}

    def environment(self) -> dict[str, Any]:
        """The engine's libraries, dtype and device, where it runs here."""
        if self.url:
            return {}
        digests = {"tokenizer": tokenizer_digest(self.model), "chat_template": chat_template_digest(self.model)}
        return engine_environment(self.model, self.engine) | {
            f"judge_{name}": digest for name, digest in digests.items()
        }

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The secret is there, or the model folder has a chat template."""
        if self.url is not None:
            self._secret()
        elif not load_tokenizer(self.model).chat_template:
            raise SignalOptionError(f"{self.model} has no chat template, so it cannot be asked; give a chat model")

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask about every distinct step of the part at once; what could not be read is asked again."""
        chat, cuts = self._chat(), self.cut(rollouts)
        questions = [
            self.questions(task, steps.texts) if steps.ends else []
            for task, steps in zip(tasks(rollouts, inputs["prompts"]), cuts, strict=True)
        ]
        grades = self._grades(chat, list(dict.fromkeys(question for asked in questions for question in asked)))
        rows = [
            _row([grades[question] for question in asked], steps) for asked, steps in zip(questions, cuts, strict=True)
        ]
        return sidecar(self.kind, rollouts, rows)

    def questions(self, task: str, steps: Sequence[str]) -> list[str]:
        """The message about each step."""

        def message(number: int) -> str:
            words = {"prompt": task, "previous": "\n\n".join(steps[:number]), "step": steps[number]}
            return _PLACES.sub(lambda place: str((words | {"number": number + 1})[place[1]]), self.template)

        return [message(number) for number in range(len(steps))]

    def grade(self, text: str) -> float | None:
        """The grade that a reply gives, scaled to 0..1; None where it gives none."""
        found = re.search(self.answer, text)
        try:
            value = float(found[1]) if found else math.nan
        except (TypeError, ValueError):
            return None
        lowest, highest = self.scale
        return (value - lowest) / (highest - lowest) if lowest <= value <= highest else None

    def _grades(self, chat: Chat, questions: Sequence[str]) -> dict[str, _Grade]:
        grades = {question: _Grade(None, [], "not asked") for question in questions}
        open_questions = list(questions)
        for attempt in range(self.attempts):
            asked = [(question, self._ask(chat, question, attempt)) for question in open_questions]
            for question, future in asked:
                grades[question] = self._graded(grades[question], future)
            open_questions = [question for question in open_questions if grades[question].score is None]
        return grades

    def _ask(self, chat: Chat, question: str, attempt: int) -> Future[Reply]:
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": question})
        warmer = attempt > 0 and self.sampling.temperature == 0
        sampling = replace(self.sampling, temperature=RETRY_TEMPERATURE) if warmer else self.sampling
        return chat.ask(messages, seed=self.seed + attempt, sampling=sampling)

    def _graded(self, before: _Grade, future: Future[Reply]) -> _Grade:
        try:
            reply = future.result()
        except RequestRejected as rejected:
            return _Grade(None, before.replies, str(rejected))
        score = self.grade(reply.text)
        return _Grade(score, [*before.replies, reply], "" if score is not None else f"no grade in {reply.text[-80:]!r}")

    def _chat(self) -> Chat:
        if self.url is None:
            from pipelines.engines import acquire

            chat: Chat = EngineChat(acquire(self.model, self.engine))
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
        return chat if self.cache is None else CachedChat(chat, folder=self.cache, identity=identity)

    def _secret(self) -> str | None:
        from pipelines.options import secret

        return None if self.api_key is None else secret(self.api_key, key="api_key")


@dataclass(frozen=True, slots=True)
class _Grade:
    """score: None where no reply could be read; replies: all of them, for their cost; failure: the last one's."""

    score: float | None
    replies: list[Reply]
    failure: str


def _row(grades: Sequence[_Grade], steps: Steps) -> Row:
    if not steps.ends:
        return EMPTY
    replies = [reply for grade in grades for reply in grade.replies]
    cost = {
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }
    for number, grade in enumerate(grades):
        if grade.score is None:
            return Row("error", json.dumps({"step": number, "failure": grade.failure, **cost}))
    return Row(
        detail=json.dumps(cost),
        values={"process_scores": [grade.score for grade in grades], "process_ends": steps.ends},
    )
