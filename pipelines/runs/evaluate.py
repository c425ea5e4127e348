"""pass@1, pass@k and maj@k of a policy on held-out prompts, with standard errors and intervals over prompts.

An evaluation is two datasets like any other (rollouts, and an outcome signal beside them), so it is resumed, verified
and inspected as a round is; what is added here is counting.

Axes: prompts (P), rollouts (R).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Strict, TypeAdapter, ValidationError

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pass_ops.shards.store import Store
from pipelines.engines.base import Sampling
from pipelines.options import options
from pipelines.options.types import AtLeastOne, GroupSize, Name, Rows
from pipelines.prompts.stage import PromptSource
from pipelines.runs.benchmarks import Benchmark, as_benchmark
from pipelines.runs.estimates import Estimate, bootstrap, estimate, majority_at_k, pass_at_k
from pipelines.verifiers import math_text, squad

__all__ = [
    "RESULTS", "Estimate", "EvalOptions", "EvalResult", "EvaluationError", "bootstrap", "evaluate_rollouts",
    "paired_gain", "pass_at_k", "read_results",
]  # fmt: skip

RESULTS = "results.json"
#: what all benchmarks of an evaluation come to, in files beside their folders
RESULTS_TABLE, PROMPTS_TABLE = "results.parquet", "prompts.parquet"
#: where a reward counts as right
RIGHT_ABOVE = 0.5
Ruling = Literal["reward", "verdict"]


class EvaluationError(PassError, ValueError):
    """An evaluation cannot be made as asked: too few samples for k, or results over different prompts."""


@options(EvaluationError)
class EvalOptions:
    """What is measured before the first round and after each one."""

    benchmarks: Mapping[Name, Annotated[Benchmark, BeforeValidator(as_benchmark)]] = field(default_factory=dict)
    """Held-out prompts by name: one table [eval.benchmarks.NAME] each. NAME becomes a folder."""
    samples: GroupSize = 8
    """Rollouts per prompt (n). They are stored together, so there are at most 65536."""
    k: Annotated[tuple[AtLeastOne, ...], Strict(False)] = (1, 8)
    """Which pass@k to report; none may exceed samples."""
    majority: Annotated[tuple[AtLeastOne, ...], Strict(False)] | None = None
    """Which maj@k to report, right answers by majority vote; none may exceed samples (default: of all samples).
    Example: [4, 8]."""
    outcome: str = "outcome"
    """Name of the signal of [signals] that judges where a benchmark has no verifier of its own."""
    sampling: Sampling | None = None
    """How tokens are drawn, with the keys of [generate.sampling] (default: as the rounds draw them)."""
    between: Rows | None = None
    """Prompts per benchmark after rounds that are not the last of their command (default: all). Such an evaluation of N
    prompts is stored in the folder `eval-N`, beside `eval`, which always holds whole ones. Example: 100."""
    seed: int = 0
    """Seed of the evaluation's rollouts."""

    def __post_init__(self) -> None:
        if not self.k:
            raise EvaluationError(
                "k is empty, but tables and rankings are headed by pass@k; leave it out, or give one such as [1]"
            )
        if taken := {RESULTS_TABLE, PROMPTS_TABLE} & self.benchmarks.keys():
            raise EvaluationError(f"a benchmark is named {min(taken)!r}, as a file beside it is; give it another name")
        if any(k > self.samples for k in self.k):
            raise EvaluationError(
                f"k is {list(self.k)}, but samples is {self.samples}; pass@k needs at least k samples"
            )
        if any(k > self.samples for k in self.majority or ()):
            raise EvaluationError(
                f"majority is {list(self.majority or ())}, but samples is {self.samples}; no more than those can vote"
            )
        if self.sampling is not None and self.sampling.token_statistics:
            raise EvaluationError(
                f"sampling.token_statistics is {self.sampling.token_statistics}, but only training reads statistics, "
                "so an evaluation stores none; leave it out"
            )

    def asked(self, name: str, *, whole: bool) -> tuple[str, PromptSource]:
        """What an evaluation's folder `eval` has behind it, and its prompts: "-N" for the first N, nothing for all.

        Each has a folder of its own, so that what a folder holds never depends on how far a command went.
        """
        source = self.benchmarks[name].prompts()
        most = source.limit if source.ids is None else len(source.ids)
        if whole or self.between is None or (most is not None and most <= self.between):
            return "", source
        fewer = {"limit": self.between} if source.ids is None else {"ids": source.ids[: self.between]}
        return f"-{self.between}", replace(source, **fewer)  # type: ignore[arg-type]


def wanted_evaluation(options: EvalOptions | None) -> EvalOptions:
    """The options of an evaluation that a command is to make. Raises EvaluationError where they name no benchmark."""
    if options is None or not options.benchmarks:
        raise EvaluationError("the configuration has no [eval.benchmarks.NAME]; name the held-out prompts there")
    return options


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One policy on one benchmark.

    pass_at, majority: pass@k and maj@k by k. reward: the mean reward, which is another number than pass@1 where the
    verifier gives partial credit (token F1 beside exact match). mean_length in tokens; truncated: share cut at
    max_tokens.
    Per prompt, in prompt order: correct_P and samples, reward_P and length_P means over its rollouts, majority_P maj@k
    of all samples, truncated_P and unscored_P counts.

    A rollout without a verdict (rejected, time-out, error) counts as a sample that is not correct and has reward 0, and
    in `unscored`. ruling: what makes a sample correct: a reward above 0.5 (results of earlier versions), or a reward
    above 0.5 by a verdict that is not "wrong" or "unparseable".

    What results of earlier versions do not have is empty or None.
    """

    benchmark: str
    policy_digest: str
    prompts: int
    samples: int
    pass_at: Mapping[int, Estimate]
    mean_length: float
    truncated: float
    unscored: int
    prompt_ids: tuple[str, ...]
    correct_P: tuple[int, ...]
    majority: Mapping[int, Estimate] = field(default_factory=dict)
    reward: Estimate | None = None
    ruling: Ruling = "reward"
    reward_P: tuple[float, ...] = ()
    majority_P: tuple[float, ...] = ()
    length_P: tuple[float | None, ...] = ()
    truncated_P: tuple[int, ...] = ()
    unscored_P: tuple[int, ...] = ()

    @property
    def graded(self) -> bool:
        """Whether rewards say something else than right and wrong: partial credit, token F1."""
        return any(
            abs(reward * self.samples - correct) > 1e-6  # what float32 rounds off
            for reward, correct in zip(self.reward_P, self.correct_P, strict=False)
        )

    def to_json(self) -> str:
        """The result as stored in eval/NAME/results.json. Raises ValueError where a number is not finite."""
        data = asdict(self)
        for name in ("pass_at", "majority"):
            data[name] = {str(k): found for k, found in data[name].items()}
        return json.dumps(data, indent=1, allow_nan=False)

    @staticmethod
    def from_json(content: str | bytes, *, where: str = RESULTS) -> EvalResult:
        """The inverse of `to_json`; `where` is what the message names. Raises EvaluationError."""
        try:
            return TypeAdapter(EvalResult).validate_json(content)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            raise EvaluationError(
                f"{where} does not hold the results of an evaluation ({place + ': ' if place else ''}{wrong['msg']}); "
                "remove it and evaluate again: what was sampled is kept"
            ) from None


def read_results(folder: str) -> EvalResult:
    """The results stored in the folder of an evaluation. Raises EvaluationError where there are none to read."""
    store = Store(folder)
    try:
        return EvalResult.from_json(store.read(RESULTS), where=store.path(RESULTS))
    except FileNotFoundError:
        raise EvaluationError(f"{folder} holds no {RESULTS}; evaluate first, or check the path") from None


def paired_gain(before: EvalResult, after: EvalResult, k: int = 1) -> Estimate:
    """pass@k after minus before on the same prompts; the standard error is that of the paired difference."""
    if before.prompt_ids != after.prompt_ids:
        raise EvaluationError(
            f"paired comparison of {before.benchmark!r}: the two results are over different prompts, so a difference "
            "says nothing; evaluate both policies on one set of prompts"
        )
    values = [pass_at_k(np.array(result.correct_P), result.samples, k) for result in (before, after)]
    return bootstrap(values[1] - values[0])


@dataclass(kw_only=True)
class _Tally:
    """One prompt's rollouts, as they are read. votes: samples that gave each answer; right: answers found right."""

    there: int = 0
    correct: int = 0
    unscored: int = 0
    truncated: int = 0
    tokens: int = 0
    reward: float = 0.0
    votes: Counter[Hashable] = field(default_factory=Counter)
    right: set[Hashable] = field(default_factory=set)

    def add(self, *, length: int, cut: bool, reward: float | None, right: bool, answer: Hashable | None) -> None:
        """One rollout."""
        self.there += 1
        self.tokens += length
        self.truncated += cut
        self.unscored += reward is None
        self.reward += reward or 0.0
        self.correct += right
        if answer is not None:
            self.votes[answer] += 1
            self.right |= {answer} if right else set()

    def majority(self, samples: int, k: int) -> float:
        """maj@k; samples that are not there give no answer."""
        answers = list(self.votes)
        silent = samples - sum(self.votes.values())
        return majority_at_k([self.votes[a] for a in answers], [a in self.right for a in answers], silent, k)


def evaluate_rollouts(
    prompts: CompleteDataset,
    rollouts: CompleteDataset,
    outcome: CompleteDataset,
    *,
    benchmark: str,
    k: Sequence[int],
    majority: Sequence[int] | None = None,
    ruling: Ruling = "verdict",
) -> EvalResult:
    """Count one benchmark from its stored prompts, rollouts and outcome signal. Raises EvaluationError.

    majority: which maj@k, default that of all samples. Answers are the same where the verifier's own normalization
    makes them one (`VOTES`); maj@k is the mean over all subsets of k samples, a tie drawn evenly.
    """
    samples = int(rollouts.spec.carried["sampling"]["group_size"])
    tally = {name: _Tally() for name in _prompt_ids(prompts)}
    _count(tally, rollouts, outcome, ruling=ruling)
    tally_P = list(tally.values())
    there = sum(one.there for one in tally_P)
    if not there:
        raise EvaluationError(
            f"{rollouts.url}: holds no rollout, so there is nothing to count. See its _rejected folder."
        )
    correct_P = np.array([one.correct for one in tally_P], np.int64)
    reward_P = np.array([one.reward / samples for one in tally_P])
    majority_P = np.array([one.majority(samples, samples) for one in tally_P])
    voted = {each: np.array([one.majority(samples, each) for one in tally_P]) for each in majority or ()}
    unscored_P = [one.unscored + samples - one.there for one in tally_P]
    return EvalResult(
        benchmark=benchmark,
        policy_digest=rollouts.spec.carried["policy_digest"],
        prompts=len(tally_P),
        samples=samples,
        pass_at={each: estimate(pass_at_k(correct_P, samples, each)) for each in k},
        majority={each: estimate(values_P) for each, values_P in (voted or {samples: majority_P}).items()},
        reward=estimate(reward_P),
        mean_length=sum(one.tokens for one in tally_P) / there,
        truncated=sum(one.truncated for one in tally_P) / there,
        unscored=sum(unscored_P),
        ruling=ruling,
        prompt_ids=tuple(tally),
        correct_P=tuple(correct_P.tolist()),
        reward_P=tuple(reward_P.tolist()),
        majority_P=tuple(majority_P.tolist()),
        length_P=tuple(one.tokens / one.there if one.there else None for one in tally_P),
        truncated_P=tuple(one.truncated for one in tally_P),
        unscored_P=tuple(unscored_P),
    )


def _count(tally: Mapping[str, _Tally], rollouts: CompleteDataset, outcome: CompleteDataset, *, ruling: Ruling) -> None:
    """Read every rollout and its verdict into the tally of its prompt."""
    same = VOTES.get(str(outcome.spec.options.get("verifier")), str.strip)
    for part in range(len(rollouts.parts)):
        table = rollouts.read_part(part, columns=["group_id", "token_ids", "finish_reason"])
        verdicts = outcome.read_part(part, columns=["outcome_reward", "verify_status", "extracted_answer"])
        rows = zip(
            table.column("group_id").to_pylist(),
            pc.list_value_length(table.column("token_ids")).to_pylist(),
            pc.equal(table.column("finish_reason"), "length").to_pylist(),
            verdicts.column("outcome_reward").to_pylist(),
            _right(verdicts, ruling).to_pylist(),
            verdicts.column("extracted_answer").to_pylist(),
            strict=True,
        )
        for group, length, cut, reward, right, answer in rows:
            said = None if answer is None else same(answer)
            said = None if said == "" else said
            tally[group].add(length=length, cut=bool(cut), reward=reward, right=right, answer=said)


def _right(verdicts: pa.Table, ruling: Ruling) -> Any:
    right = pc.fill_null(pc.greater(verdicts.column("outcome_reward"), RIGHT_ABOVE), False)
    if ruling == "reward":
        return right
    accepted = pc.is_in(verdicts.column("verify_status"), pa.array(["ok", "unknown"]))  # unknown: imported
    return pc.and_(right, accepted)


def _number(answer: str) -> Fraction | str:
    """A number as `number` extracted it, by its value; any other text as it stands.

    >>> _number("72.00"), _number("0.75") == _number("3/4"), _number("5E+3")
    (Fraction(72, 1), True, Fraction(5000, 1))
    """
    try:
        return Fraction(answer)
    except (ValueError, ZeroDivisionError):
        return answer


#: verifier -> what makes two extracted answers one in a vote; for others they are compared as they stand
VOTES: Mapping[str, Callable[[str], Hashable]] = {
    "math": lambda answer: math_text.plain(math_text.tidy(answer)),
    "number": _number,
    "squad": lambda answer: squad.normalize(answer) or answer.strip(),  # "A" is an article and an answer
}


def _prompt_ids(prompts: CompleteDataset) -> list[str]:
    parts = range(len(prompts.parts))
    return [
        name
        for part in parts
        for name in prompts.read_part(part, columns=["prompt_id"]).column("prompt_id").to_pylist()
    ]
