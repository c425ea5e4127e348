"""Signal `monte_carlo`: the value of every step, as the share of the policy's own continuations from it that end right.

Source: Wang et al., "Math-Shepherd: Verify and Reinforce LLMs Step-by-step without Human Annotations" (arXiv
2312.08935), its soft estimation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le
from numpy.typing import NDArray

from pass_ops.shards import DatasetSpec
from pipelines.engines.base import Engine, RequestRejected, SampleRequest, Sampling
from pipelines.engines.text import TokenIds, completion_text
from pipelines.options import options
from pipelines.options.types import GroupSize
from pipelines.signals.base import Row, SignalInputError, SignalOptionError, sidecar
from pipelines.signals.calls import VerifyingSignal
from pipelines.signals.columns import list_rows
from pipelines.signals.kept import INT32, request_name, then
from pipelines.signals.modelled import ModelSignal
from pipelines.signals.stepwise import EMPTY, StepwiseSignal
from pipelines.verifiers.pool import CallResult


class Prefix(NamedTuple):
    """What is continued. ids: of the prompt and the completion so far, int32; start: where the latter starts."""

    ids: bytes
    start: int

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """The ids, as a view."""
        return np.frombuffer(self.ids, np.int32)


Key = tuple[Prefix, int]


@options(SignalOptionError)
class MonteCarloSignal(StepwiseSignal, VerifyingSignal, ModelSignal):
    """The value of each step: the share of the policy's continuations from its end that turn out right.

    The last step has nothing after it: its score is the rollout's own verdict, without sampling. A prefix that several
    rollouts of a part share (a group's first steps) is sampled once. Continuations that the engine rejects or the
    verifier fails on are left out; a row is null where a step has none left.
    """

    kind: ClassVar[str] = "process_steps"

    samples: GroupSize = 8
    """Continuations per step (m)."""
    max_continuations: Annotated[int, Ge(1), Le(2**20)] = 128
    """Most continuations of one rollout, the cost cap: each of K steps gets min(samples, max_continuations // K). A
    rollout with more steps than max_continuations is too_long."""
    sampling: Sampling | None = None
    """How continuations are drawn, with the keys of [generate.sampling] (default: as the rollouts were). max_tokens
    counts from the start of the completion, so that the policy could have sampled the whole itself."""
    seed: int = 0
    """Seed of the continuations."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """None: the rollouts hold prompt ids and answers."""
        return ()

    def options(self) -> dict[str, Any]:
        """Sampling as plain values."""
        return {**super().options(), "sampling": None if self.sampling is None else self.sampling.as_values()}

    def for_policy(self, folder: str, rollouts: DatasetSpec) -> Self:
        """With the policy's folder and the rollouts' sampling, where none is given."""
        bound = super().for_policy(folder, rollouts)
        if bound.sampling is not None:
            return bound
        carried: Mapping[str, Any] = rollouts.carried.get("sampling") or {}
        known = [item.name for item in fields(Sampling) if item.name != "token_statistics"]
        return replace(bound, sampling=Sampling(**{name: carried[name] for name in known if name in carried}))

    @property
    def needs_known(self) -> tuple[str, ...]:
        """The token ids, which are continued."""
        return ("prompt_token_ids", "token_ids")

    @property
    def reads(self) -> tuple[str, ...]:
        """The prompt's tokens and the answer, and what steps are cut from."""
        return ("prompt_token_ids", "token_ids", "text", "answer")

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Sample every distinct prefix of the part at once, then verify every distinct completion."""
        from pipelines.engines import acquire

        engine = acquire(self.folder, self.engine_options)
        rows = rollouts.select(["text", "answer"]).to_pylist()
        ids = (list_rows(rollouts[column]) for column in ("prompt_token_ids", "token_ids"))
        each = zip(rows, *ids, self.cut(rollouts), strict=True)
        plans = [
            self._plan(engine, prompt, completion, steps.ends, answered=row["answer"] is not None)
            for row, prompt, completion, steps in each
        ]
        asked: dict[Key, Future[NDArray[np.int32]]] = {}
        for plan in plans:
            if isinstance(plan, Row):
                continue
            for prefix in plan.prefixes:
                token_ids = prefix.token_ids  # one array for all its continuations, which engines keep together
                for index in range(plan.each):
                    if (prefix, index) not in asked:
                        asked[prefix, index] = self._continue(engine, token_ids, index, start=prefix.start)
        texts = {key: self._whole_text(engine, key[0], future) for key, future in asked.items()}
        verdicts = self._verdicts(plans, rows, texts)
        return sidecar(
            self.kind,
            rollouts,
            [
                plan if isinstance(plan, Row) else _valued(plan, row, texts, verdicts)
                for plan, row in zip(plans, rows, strict=True)
            ],
        )

    def _plan(
        self,
        engine: Engine,
        prompt: NDArray[np.int32],
        completion: NDArray[np.int32],
        ends: list[int],
        *,
        answered: bool,
    ) -> _Plan | Row:
        """Which continuations a rollout needs, or its row where it needs none."""
        if not answered:
            return Row("no_input", "the prompt has no reference answer")
        if not ends:
            return EMPTY
        each = min(self.samples, self.max_continuations // len(ends))
        if each == 0:
            return Row("too_long", f"{len(ends)} steps; max_continuations is {self.max_continuations}")
        longest = len(prompt) + (ends[-2] if len(ends) > 1 else 0)
        if longest >= engine.max_model_len:
            return Row("too_long", f"a prefix of {longest} tokens; the model takes {engine.max_model_len}")
        whole, start = np.concatenate([prompt, completion]), len(prompt)
        return _Plan(ends, [Prefix(whole[: start + end].tobytes(), start) for end in ends[:-1]], each)

    def _continue(
        self, engine: Engine, token_ids: NDArray[np.int32], index: int, *, start: int
    ) -> Future[NDArray[np.int32]]:
        """The token ids of a continuation. start: where in the ids the completion starts."""
        if self.sampling is None:
            raise SignalInputError("how the rollouts were sampled is not known; give the option sampling")
        room = max(1, self.sampling.max_tokens - (len(token_ids) - start))
        request = SampleRequest(
            prompt_token_ids=token_ids,
            seed=continuation_seed(self.seed, token_ids, index),
            sampling=replace(self.sampling, max_tokens=room),
        )
        return self._answers.ask(
            request_name(token_ids, request.seed, room),
            lambda: then(engine.submit(request), lambda sample: sample.token_ids),
            INT32,
        )

    def _whole_text(self, engine: Engine, prefix: Prefix, future: Future[NDArray[np.int32]]) -> str | None:
        """Prefix and continuation as the verifier reads them; None where the engine rejected the request."""
        try:
            token_ids = future.result()
        except RequestRejected:
            return None
        keep = () if self.sampling is None else self.sampling.keep_special_tokens
        whole = np.concatenate([prefix.token_ids[prefix.start :], token_ids])
        return completion_text(engine.tokenizer, whole, keep=keep)

    def _verdicts(
        self, plans: Sequence[_Plan | Row], rows: Sequence[Mapping[str, Any]], texts: Mapping[Any, str | None]
    ) -> dict[tuple[str, str], CallResult]:
        """The verdict on each distinct (text, answer)."""
        calls = dict.fromkeys(
            (text, row["answer"])
            for plan, row in zip(plans, rows, strict=True)
            if isinstance(plan, _Plan)
            for text in (row["text"], *(texts[key] for key in plan.keys))
            if text is not None
        )
        return dict(zip(calls, self.verify(list(calls)), strict=True))


@dataclass(frozen=True)
class _Plan:
    """ends: of the steps. prefixes: up to the end of each step but the last, each continued so many times."""

    ends: list[int]
    prefixes: list[Prefix]
    each: int

    @property
    def keys(self) -> Iterator[Key]:
        """All continuations."""
        return ((prefix, index) for prefix in self.prefixes for index in range(self.each))


def continuation_seed(seed: int, token_ids: TokenIds, index: int) -> int:
    """The seed of one continuation, 0 to 2**63 - 1: of what it continues, not of which rollout that stands in."""
    digest = hashlib.sha256(f"continuation {seed} {index} ".encode() + np.asarray(token_ids, dtype="<i4").tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _valued(
    plan: _Plan, row: Mapping[str, Any], texts: Mapping[Any, str | None], verdicts: Mapping[Any, CallResult]
) -> Row:
    scores = []
    steps = [[texts[prefix, index] for index in range(plan.each)] for prefix in plan.prefixes]
    for number, step in enumerate([*steps, [row["text"]]]):
        results = [verdicts[text, row["answer"]] for text in step if text is not None]
        judged = [result.value[1] == "ok" for result in results if result.status == "ok"]
        if not judged:
            failure = next((f"{result.status}: {result.detail}" for result in results), "the engine rejected all")
            return Row("error", f"step {number}: none of its {len(step)} continuations was judged ({failure})")
        scores.append(sum(judged) / len(judged))
    return Row(values={"process_scores": scores, "process_ends": plan.ends})
