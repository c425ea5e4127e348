"""What options about rounds need of each other, checked before a run."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.runs.run import Run
from trainer import TrainOptions
from trainer.summary import metric_names


def round_problems(run: Run, *, first: int, rounds: int) -> Iterator[str]:
    """One line for each thing that would stop these rounds, or spoil them. Raises ConfigError for a schedule."""
    yield from _staleness(run, first=first, rounds=rounds)
    yield from _stopping(run, first=first, rounds=rounds)
    yield from _selecting(run)
    keep, read = run.config.run.keep_rollouts, run.config.run.max_staleness + 1
    if keep is not None and keep < read:
        yield (
            f"run.keep_rollouts is {keep}, but with run.max_staleness {read - 1} a round trains on the rows of {read}: "
            f"set it to {read} or more"
        )


def _staleness(run: Run, *, first: int, rounds: int) -> Iterator[str]:
    """Of the first round that cannot train on older ones, why: other policies sampled their rollouts."""
    limit = run.config.run.max_staleness
    for index in range(first, first + rounds) if limit else ():
        trained = run.trained_rounds(index)
        problem = _mixing(run, trained) if len(trained) > 1 else None
        if problem is not None:
            yield f"run.max_staleness is {limit}, so round {index} trains on older rollouts as well, {problem}"
            return


def _mixing(run: Run, trained: range) -> str | None:
    """Why an update cannot read these rounds together; None where it can."""
    train = run.config.at_round(trained[0]).train
    if train.off_policy == "refuse":
        return 'but train.off_policy is "refuse"; set it to "accept", or run.max_staleness to 0'
    temperatures = {run.config.at_round(index).generate.sampling.temperature for index in trained}
    if len(temperatures) > 1:
        return (
            f"and they are sampled at different temperatures, {sorted(temperatures)}, of which an update knows one; "
            "schedule one temperature, or set run.max_staleness to 0"
        )
    return _uncorrected(train)


def _uncorrected(train: TrainOptions) -> str | None:
    """Why older rollouts would count as if the policy had sampled them; None where the ratio to the sampler is used."""
    if train.loss == "next_token" or train.importance != "none" or train.reject != "none":
        return None
    if train.old_policy == "recompute":
        return (
            'but with train.old_policy "recompute" nothing corrects for who sampled them: set train.importance or '
            'train.reject, or train.old_policy to "behavior"'
        )
    if train.loss == "policy_gradient":
        return "but loss policy_gradient does not correct for who sampled them: set train.importance or train.reject"
    return None


def _selecting(run: Run) -> Iterator[str]:
    """A number of prompts to choose, and verdicts to choose them by."""
    select = run.config.select
    if select is None:
        return
    if run.config.run.prompts_per_round is None:
        yield "[select] chooses run.prompts_per_round prompts, and that is not set; set it"
    if (kind := run.signals[select.outcome].kind) != "outcome":
        yield f"select.outcome: the signal {select.outcome!r} is of kind {kind}; name one of kind outcome"


def _stopping(run: Run, *, first: int, rounds: int) -> Iterator[str]:
    """The metric must be one that every round measures."""
    options, found = run.config.stop, run.config.eval
    if options is None:
        return
    evaluated = [] if found is None else [f"eval.{name}.pass@{k}" for name in found.benchmarks for k in found.k]
    for index in range(first, first + rounds):
        known = evaluated + [f"train.{name}" for name in metric_names(run.config.at_round(index).train)]
        if options.metric not in known:
            kind = options.metric.partition(".")[0]
            told = ", ".join(name for name in known if name.startswith(f"{kind}."))
            yield f"stop.metric is {options.metric!r}, which is not measured; measured are: {told or 'none'}"
            return
