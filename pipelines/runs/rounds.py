"""Rounds: prompts -> rollouts -> signals -> shaped -> update -> evaluation, and again from the new policy.

    RUN/
      lineage.json                     what was made from what, and how it went
      start/eval/NAME/                 the policy before round 0
      round-000/ prompts/ rollouts/ signals/NAME/ shaped/ train/ policy/ eval/NAME/

Every step is a dataset or a resumable training: a round that was cut off goes on where it stopped when it is called
again.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import Manifest
from pass_ops.shards.store import Store
from pipelines.models.folder import describe_model, model_digest
from pipelines.options import as_dict
from pipelines.parts.operations import Operations
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import generate
from pipelines.runs.config import RunConfig
from pipelines.runs.evaluate import EvalResult, EvaluationError, evaluate_rollouts
from pipelines.runs.lineage import record_round
from pipelines.runs.progress import Report, Reporter
from pipelines.runs.summary import ShapedSummary, summarize_shaped
from pipelines.shaped.stage import check_streams, shape_dataset
from pipelines.signals.base import Signal, signal_from_table
from pipelines.signals.modelled import ModelSignal
from pipelines.signals.reverify import VerdictDiff, reverify
from pipelines.signals.stage import score

RESULTS = "results.json"


class SignalOrderError(PassError, ValueError):
    """A signal reads one that is not configured, or signals read each other in a circle."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder: its configuration, and where each thing of a round lies in it."""

    config: RunConfig
    url: str
    reporter: Reporter
    overwrite: bool = False

    def folder(self, round_index: int, *names: str) -> str:
        """A folder of one round."""
        return posixpath.join(self.url, f"round-{round_index:03d}", *names)

    def starting_policy(self, round_index: int) -> str:
        """The model that a round samples from: the configured one, then the one before's result."""
        return self.config.policy.model if round_index == 0 else self.folder(round_index - 1, "policy")

    def operations(self, progress: Report) -> Operations:
        """How a stage of this run works, telling its progress to `progress`."""
        config = self.config
        return Operations(
            runner=config.runner, overwrite=self.overwrite, progress=progress, **asdict(config.operations)
        )


def run_round(run: Run, round_index: int, *, is_last: bool = True) -> ShapedSummary:
    """One whole round; afterwards its `policy/` is the next one's start. Returns what was shaped, summed up."""
    configured_signals(run.config)  # a wrong option is found before the first rollout is paid for
    check_streams(run.config.shape)
    policy = run.starting_policy(round_index)
    facts = {"policy": policy, "policy_digest": model_digest(policy), "config": as_dict(run.config)}
    record_round(run.url, round_index, facts)
    make_rollouts(run, round_index)
    score_rollouts(run, round_index)
    shape_rollouts(run, round_index)
    update_policy(run, round_index)
    evaluate_round(run, round_index, whole=is_last)
    return summarize_shaped(shards.open_dataset(run.folder(round_index, "shaped")))


def run_rounds(run: Run, count: int) -> None:
    """The starting policy's evaluation, then `count` rounds."""
    evaluate_start(run)
    for round_index in range(count):
        run_round(run, round_index, is_last=round_index == count - 1)


def make_rollouts(run: Run, round_index: int) -> Manifest:
    """The datasets `prompts` and `rollouts` of a round."""
    prompts = run.folder(round_index, "prompts")
    _recorded(
        run,
        round_index,
        "prompts",
        lambda report: _write_prompts(run, round_prompts(run.config, round_index), prompts, report),
    )
    return _recorded(
        run,
        round_index,
        "rollouts",
        lambda report: generate(
            prompts=prompts,
            out=run.folder(round_index, "rollouts"),
            model=run.starting_policy(round_index),
            engine=run.config.engine,
            options=run.config.generate,
            seed=run.config.run.seed,
            round=round_index,
            operations=run.operations(report),
        ),
    )


def score_rollouts(run: Run, round_index: int, names: Iterable[str] = ()) -> dict[str, Manifest]:
    """The configured signals of a round (or the named ones), each after those it reads. Returns name -> manifest."""
    return {name: _score(run, round_index, name, signal) for name, signal in _wanted_signals(run, names).items()}


def reverify_rollouts(run: Run, round_index: int, names: Iterable[str] = ()) -> dict[str, VerdictDiff]:
    """The verdicts of a round's outcome signals (or the named ones) computed again; name -> how they differ."""
    signals = _wanted_signals(run, names)
    diffs = {}
    for name, signal in signals.items():
        if signal.kind != "outcome" and not names:
            continue
        with run.reporter.step(f"round {round_index}: reverify {name}") as report:
            diffs[name] = reverify(
                signal,
                rollouts=run.folder(round_index, "rollouts"),
                stored=run.folder(round_index, "signals", name),
                prompts=run.folder(round_index, "prompts"),
                progress=report,
            )
    return diffs


def shape_rollouts(run: Run, round_index: int, name: str = "shaped") -> Manifest:
    """The shaped dataset of a round; another `name` keeps several shapings of the same rollouts side by side."""
    return _recorded(
        run,
        round_index,
        name,
        lambda report: shape_dataset(
            rollouts=run.folder(round_index, "rollouts"),
            signals=run.folder(round_index, "signals"),
            out=run.folder(round_index, name),
            options=run.config.shape,
            operations=run.operations(report),
        ),
    )


def update_policy(run: Run, round_index: int) -> dict[str, Any]:
    """Train on the round's shaped dataset; optimizer and schedule go on from the round before. Returns mean metrics."""
    from trainer import is_main_process, train

    policy = run.starting_policy(round_index)
    facts = describe_model(policy)
    with run.reporter.step(f"round {round_index}: train") as report:
        result = train(
            [run.folder(round_index, "shaped")],
            policy=policy,
            out=run.folder(round_index, "train"),
            state=run.folder(round_index - 1, "train") if round_index else None,
            options=run.config.train,
            policy_digest=facts.digest,
            vocabulary=asdict(facts.vocabulary),
            export=run.folder(round_index, "policy"),
            progress=report,
        )
    if is_main_process():
        record_round(run.url, round_index, {"metrics": {"train": result.metrics}})
    return dict(result.metrics)


def evaluate_start(run: Run) -> dict[str, EvalResult]:
    """The policy before round 0 on every benchmark."""
    return _evaluate_all(run, run.config.policy.model, posixpath.join(run.url, "start", "eval"), title="start")


def evaluate_round(run: Run, round_index: int, *, whole: bool = True) -> dict[str, EvalResult]:
    """The policy that a round made, on every benchmark. whole=False: on `eval.between` prompts only."""
    policy, folder = run.folder(round_index, "policy"), run.folder(round_index, "eval")
    results = _evaluate_all(run, policy, folder, title=f"round {round_index}", whole=whole)
    metrics = {
        name: {f"pass@{k}": estimate.value for k, estimate in result.pass_at.items()}
        for name, result in results.items()
    }
    record_round(run.url, round_index, {"metrics": {"eval": metrics}})
    return results


def evaluate(run: Run, *, round_index: int | None = None, policy: str | None = None) -> dict[str, EvalResult]:
    """What `passrl eval` does: any model folder, else the policy a round made, else the configured one."""
    if run.config.eval is None or not run.config.eval.benchmarks:
        raise EvaluationError("the configuration has no [eval.benchmarks.NAME]; name the held-out prompts there")
    if policy is not None:
        folder = posixpath.join(run.url, "eval", model_digest(policy)[:8])
        return _evaluate_all(run, policy, folder, title=posixpath.basename(policy.rstrip("/")))
    return evaluate_start(run) if round_index is None else evaluate_round(run, round_index)


def evaluate_policy(run: Run, policy: str, folder: str, name: str, *, title: str, whole: bool = True) -> EvalResult:
    """One policy on one benchmark: rollouts and verdicts as datasets in `folder`, and results.json beside them."""
    options = run.config.eval
    assert options is not None
    source = options.benchmarks[name]
    if not whole and options.between is not None:
        source = replace(source, limit=min(options.between, source.limit or options.between))
    sampling = options.sampling or run.config.generate.sampling
    places = {
        stage: posixpath.join(folder, name, stage) for stage in ("prompts", "rollouts", f"signals/{options.outcome}")
    }
    prompts, rollouts, outcome = places.values()
    with run.reporter.step(f"{title}: evaluate {name}") as report:
        _write_prompts(run, source, prompts, report)
        generate(
            prompts=prompts,
            out=rollouts,
            model=policy,
            engine=run.config.engine,
            options=replace(run.config.generate, sampling=sampling, group_size=options.samples),
            seed=options.seed,
            operations=run.operations(report),
        )
        signal = signal_from_table(run.config.signals[options.outcome])
        score(
            signal=signal,
            rollouts=rollouts,
            out=outcome,
            prompts=prompts,
            tokenizer=policy,
            operations=run.operations(report),
        )
    result = evaluate_rollouts(
        *(shards.open_dataset(place) for place in (prompts, rollouts, outcome)), benchmark=name, k=options.k
    )
    Store(posixpath.join(folder, name)).put(RESULTS, result.to_json().encode())
    return result


def round_prompts(config: RunConfig, round_index: int) -> PromptSource:
    """The prompts of one round: the next `prompts_per_round` of the source, in an order shuffled once by the seed."""
    count = config.run.prompts_per_round
    if count is None:
        return config.prompts
    seed = config.run.seed if config.prompts.shuffle_seed is None else config.prompts.shuffle_seed
    return replace(config.prompts, shuffle_seed=seed, offset=config.prompts.offset + round_index * count, limit=count)


def configured_signals(config: RunConfig) -> dict[str, Signal]:
    """Every signal of the configuration, each after those it reads; models run as [engine] says where they do not.

    Raises SignalOptionError, and SignalOrderError also where [shape] or [eval] names a signal that is not there.
    """
    signals = {name: _with_engine(signal_from_table(table), config) for name, table in config.signals.items()}
    named = [(f"shape.{role}", name) for name, role in config.shape.roles.items()]
    if config.eval is not None and config.eval.benchmarks:
        named.append(("eval.outcome", config.eval.outcome))
    for option, name in named:
        if name not in signals:
            raise SignalOrderError(f"{option} is {name!r}, but [signals] has {', '.join(signals) or 'none'}")
    return {name: signals[name] for name in signal_order(signals)}


def _with_engine(signal: Signal, config: RunConfig) -> Signal:
    return signal.run_with(config.engine) if isinstance(signal, ModelSignal) else signal


def signal_order(signals: Mapping[str, Signal]) -> list[str]:
    """Names so ordered that a signal comes after those it reads. Raises SignalOrderError."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise SignalOrderError(f"signals read each other in a circle: {' -> '.join((*path, name))}")
        for needed in signals[name].inputs:
            if needed == "prompts":
                continue
            if needed not in signals:
                raise SignalOrderError(
                    f"signal {name!r} reads {needed!r}, which [signals] does not have; it has: {', '.join(signals)}"
                )
            visit(needed, (*path, name))
        if name not in order:
            order.append(name)

    for name in signals:
        visit(name, ())
    return order


def _wanted_signals(run: Run, names: Iterable[str]) -> dict[str, Signal]:
    """The named signals in order of what they read; all where none is named. Raises SignalOrderError."""
    signals = configured_signals(run.config)
    wanted = set(names) or set(signals)
    if unknown := wanted - set(signals):
        raise SignalOrderError(
            f"signal {min(unknown)!r} is not configured; [signals] has: {', '.join(signals) or 'none'}"
        )
    return {name: signal for name, signal in signals.items() if name in wanted}


def _score(run: Run, round_index: int, name: str, signal: Signal) -> Manifest:
    return _recorded(
        run,
        round_index,
        f"signals/{name}",
        lambda report: score(
            signal=signal,
            rollouts=run.folder(round_index, "rollouts"),
            out=run.folder(round_index, "signals", name),
            prompts=run.folder(round_index, "prompts"),
            signals={
                needed: run.folder(round_index, "signals", needed) for needed in signal.inputs if needed != "prompts"
            },
            tokenizer=run.starting_policy(round_index),
            operations=run.operations(report),
        ),
    )


def _evaluate_all(run: Run, policy: str, folder: str, *, title: str, whole: bool = True) -> dict[str, EvalResult]:
    if run.config.eval is None:
        return {}
    return {
        name: evaluate_policy(run, policy, folder, name, title=title, whole=whole)
        for name in run.config.eval.benchmarks
    }


def _write_prompts(run: Run, source: PromptSource, out: str, report: Report) -> Manifest:
    return write_prompts(
        source, out=out, overwrite=run.overwrite, max_reject_rate=run.config.operations.max_reject_rate, progress=report
    )


def _recorded(run: Run, round_index: int, name: str, stage: Callable[[Report], Manifest]) -> Manifest:
    """Run one stage under a progress bar, tell what it rejected, write its dataset into the lineage."""
    with run.reporter.step(f"round {round_index}: {name}") as report:
        manifest = stage(report)
    for reason, count in manifest.rejected.items():
        run.reporter.line(f"    rejected: {count} x {reason} (see {run.folder(round_index, name)}/_rejected)")
    record_round(run.url, round_index, {"datasets": {name: manifest.content_digest}})
    return manifest
