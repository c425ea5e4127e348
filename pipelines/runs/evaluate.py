"""pass@1 and pass@k of a policy on held-out prompts, with standard errors over prompts.

An evaluation is two datasets like any other (rollouts, and an outcome signal beside them), so it is resumed, verified
and inspected as a round is; what is added here is counting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Strict, TypeAdapter, ValidationError

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pass_ops.shards.store import Store
from pipelines.engines.base import Sampling
from pipelines.options import options
from pipelines.options.types import AtLeastOne, GroupSize, Name, Rows
from pipelines.prompts.stage import PromptSource

BOOTSTRAP_RESAMPLES = 2000
RESULTS = "results.json"


class EvaluationError(PassError, ValueError):
    """An evaluation cannot be made as asked: too few samples for k, or results over different prompts."""


@options(EvaluationError)
class EvalOptions:
    """What is measured before the first round and after each one."""

    benchmarks: Mapping[Name, PromptSource] = field(default_factory=dict)
    """Held-out prompts by name: one table [eval.benchmarks.NAME] each, with the keys of [prompts]. NAME becomes a
    folder."""
    samples: GroupSize = 8
    """Rollouts per prompt (n). They are stored together, so there are at most 65536."""
    k: Annotated[tuple[AtLeastOne, ...], Strict(False)] = (1, 8)
    """Which pass@k to report; none may exceed samples."""
    outcome: str = "outcome"
    """Name of the signal of [signals] that judges."""
    sampling: Sampling | None = None
    """How tokens are drawn, with the keys of [generate.sampling] (default: as the rounds draw them)."""
    between: Rows | None = None
    """Prompts per benchmark after rounds that are not the last of their command (default: all). Such an evaluation of N
    prompts is stored in the folder `eval-N`, beside `eval`, which always holds whole ones. Example: 100."""
    seed: int = 0
    """Seed of the evaluation's rollouts."""

    def __post_init__(self) -> None:
        if any(k > self.samples for k in self.k):
            raise EvaluationError(
                f"k is {list(self.k)}, but samples is {self.samples}; pass@k needs at least k samples"
            )

    def asked(self, name: str, *, whole: bool) -> tuple[str, PromptSource]:
        """What an evaluation's folder `eval` has behind it, and its prompts: "-N" for the first N, nothing for all.

        Each has a folder of its own, so that what a folder holds never depends on how far a command went.
        """
        source = self.benchmarks[name]
        if whole or self.between is None or (source.limit is not None and source.limit <= self.between):
            return "", source
        return f"-{self.between}", replace(source, limit=self.between)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over prompts and its standard error (bootstrap over prompts)."""

    value: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One policy on one benchmark.

    correct_P, samples_P: per prompt, in prompt order. A rollout without a verdict (rejected, time-out, error)
    counts as a
    sample that is not correct, and in `unscored`. mean_length in tokens; truncated: share cut at max_tokens.
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

    def to_json(self) -> str:
        """The result as stored in eval/NAME/results.json."""
        data = asdict(self) | {"pass_at": {str(k): asdict(v) for k, v in self.pass_at.items()}}
        return json.dumps(data, indent=1)

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


def pass_at_k(correct_P: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k per prompt: 1 - C(n - c, k) / C(n, k), n samples of which c are correct.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), Eq. 1, in its product form,
    which does not overflow.

    >>> pass_at_k(np.array([0, 1, 2]), 2, 1)
    array([0. , 0.5, 1. ])
    """
    i_k = np.arange(k)
    factors_P_k = 1.0 - correct_P[:, None] / (samples - i_k)[None, :]
    missed_P: NDArray[np.float64] = np.prod(np.clip(factors_P_k, 0.0, None), axis=1)
    return 1.0 - missed_P


def bootstrap(values_P: NDArray[np.float64], *, seed: int = 0) -> Estimate:
    """The mean over prompts and its bootstrap standard error, resampling whole prompts."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values_P), size=(BOOTSTRAP_RESAMPLES, len(values_P)))
    return Estimate(value=float(values_P.mean()), standard_error=float(values_P[picks].mean(axis=1).std(ddof=1)))


def paired_gain(before: EvalResult, after: EvalResult, k: int = 1) -> Estimate:
    """pass@k after minus before on the same prompts; the standard error is that of the paired difference."""
    if before.prompt_ids != after.prompt_ids:
        raise EvaluationError(
            f"paired comparison of {before.benchmark!r}: the two results are over different prompts, so a difference "
            "says nothing; evaluate both policies on one set of prompts"
        )
    values = [pass_at_k(np.array(result.correct_P), result.samples, k) for result in (before, after)]
    return bootstrap(values[1] - values[0])


def evaluate_rollouts(
    prompts: CompleteDataset, rollouts: CompleteDataset, outcome: CompleteDataset, *, benchmark: str, k: Sequence[int]
) -> EvalResult:
    """Count one benchmark from its stored prompts, rollouts and outcome signal. Raises EvaluationError."""
    samples = int(rollouts.spec.carried["sampling"]["group_size"])
    correct = dict.fromkeys(_prompt_ids(prompts), 0)
    lengths: list[NDArray[np.int64]] = []
    truncated = unscored = 0
    for part in range(len(rollouts.parts)):
        table = rollouts.read_part(part, columns=["group_id", "token_ids", "finish_reason"])
        rewards = outcome.read_part(part, columns=["outcome_reward"]).column("outcome_reward")
        unscored += rewards.null_count
        right = pc.fill_null(pc.greater(rewards, 0.5), False).to_pylist()
        for group, is_right in zip(table.column("group_id").to_pylist(), right, strict=True):
            correct[group] += is_right
        lengths.append(pc.list_value_length(table.column("token_ids")).to_numpy())
        truncated += pc.sum(pc.equal(table.column("finish_reason"), "length")).as_py() or 0
    length_R = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    if not len(length_R):
        raise EvaluationError(
            f"{rollouts.url}: holds no rollout, so there is nothing to count. See its _rejected folder."
        )
    correct_P = np.array(list(correct.values()), np.int64)
    missing = samples * len(correct) - len(length_R)
    return EvalResult(
        benchmark=benchmark,
        policy_digest=rollouts.spec.carried["policy_digest"],
        prompts=len(correct),
        samples=samples,
        pass_at={each: bootstrap(pass_at_k(correct_P, samples, each)) for each in k},
        mean_length=float(length_R.mean()),
        truncated=truncated / len(length_R),
        unscored=unscored + missing,
        prompt_ids=tuple(correct),
        correct_P=tuple(int(c) for c in correct_P),
    )


def _prompt_ids(prompts: CompleteDataset) -> list[str]:
    parts = range(len(prompts.parts))
    return [
        name
        for part in parts
        for name in prompts.read_part(part, columns=["prompt_id"]).column("prompt_id").to_pylist()
    ]
