"""Rounds: prompts -> rollouts -> signals -> shaped -> update -> evaluation, and again from the new policy.

    RUN/
      lineage.json                     what was made from what, and how it went
      start/eval/NAME/                 the policy before round 0
      round-000/ prompts/ rollouts/ signals/NAME/ shaped/ train/ policy/ eval/NAME/ eval-N/NAME/
                 pass_rates.json selection.json    with [select]: what was measured, and what was chosen by it

Every step is a dataset or a resumable training: a round that was cut off goes on where it stopped when it is called
again.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pass_ops import shards
from pass_ops.shards import Manifest
from pass_ops.shards.store import Store
from pipelines.models.folder import describe_model, model_digest
from pipelines.models.source import local_model, pinned_model
from pipelines.options import as_dict
from pipelines.options.types import check_name
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import generate
from pipelines.runs import selection
from pipelines.runs.anchors import check_anchors
from pipelines.runs.away import training_folders
from pipelines.runs.budget import apply_budget, remove_old_states
from pipelines.runs.check import check_run
from pipelines.runs.evaluate import RESULTS, EvalResult, evaluate_rollouts, read_results, wanted_evaluation
from pipelines.runs.evaluation_files import write_tables
from pipelines.runs.folders import ROUND_FOLDERS
from pipelines.runs.leftovers import leftovers, remove_leftovers
from pipelines.runs.lineage import read_rounds, record_round, record_start, record_stopped, training_metrics
from pipelines.runs.progress import Report
from pipelines.runs.run import Run, round_prompts
from pipelines.runs.stop import Stopped, metric_value, stopped
from pipelines.runs.summary import ShapedSummary, summarize_shaped
from pipelines.runs.torchrun import trainer_for
from pipelines.shaped.stage import shape_dataset
from pipelines.signals.base import Signal
from pipelines.signals.reverify import VerdictDiff, reverify
from pipelines.signals.stage import score


def run_round(run: Run, round_index: int, *, is_last: bool = True) -> ShapedSummary:
    """One whole round; afterwards its `policy/` is the next one's start. Returns what was shaped, summed up.

    Raises RunRefused before anything runs.
    """
    check_run(run, round_index=round_index)
    remove_leftovers(leftovers(run.url))
    return _round(run, round_index, is_last=is_last)


def run_rounds(run: Run, count: int) -> dict[int, ShapedSummary]:
    """The starting policy's evaluation, then `count` rounds, fewer where [stop] ends them; returns what each shaped,
    summed up.

    Raises RunRefused before anything runs.
    """
    check_run(run, rounds=count)
    remove_leftovers(leftovers(run.url))
    evaluate_start(run)
    made: dict[int, ShapedSummary] = {}
    found: Stopped | None = None
    while len(made) < count and found is None:
        index = len(made)
        made[index] = _round(run, index, is_last=index == count - 1)
        found = _stopped(run, index) if index < count - 1 else None
    if found is not None:
        evaluate_round(run, found.round)  # it is the last one, so on every prompt
        run.reporter.note(str(found))
    record_stopped(run.url, None if found is None else found.as_json())
    return made


def _stopped(run: Run, last: int) -> Stopped | None:
    """Whether the rounds up to one that was evaluated as one of several are enough. Raises StopError.

    Figures are read from the evaluations on eval.between prompts and from what the trainings recorded, so the decision
    depends on nothing that a later round or a whole evaluation writes.
    """
    options = run.config.stop
    if options is None:
        return None
    trained = training_metrics(run.url)
    values = []
    for index in range(last + 1):
        metrics = {"train": trained.get(index, {}), "eval": _figures(dict(_between(run, index)))}
        values.append(metric_value(metrics, options.metric, where=f"round {index}"))
    return stopped(values, options)


def _between(run: Run, round_index: int) -> Iterator[tuple[str, EvalResult]]:
    """The evaluations of a round that is not the last."""
    for name in run.config.eval.benchmarks if run.config.eval is not None else ():
        suffix, _ = run.config.eval.asked(name, whole=False)  # type: ignore[union-attr]
        yield name, read_results(run.folder(round_index, f"eval{suffix}", name))


def _round(run: Run, round_index: int, *, is_last: bool) -> ShapedSummary:
    policy = run.starting_policy(round_index)
    record_round(
        run.url,
        round_index,
        {
            "policy": pinned_model(policy),
            "policy_digest": model_digest(policy),
            "config": as_dict(run.config.at_round(round_index)),
            "schedule": run.config.scheduled_in(round_index),
            "anchors": check_anchors(run, round_index),
            "trained_on": list(run.trained_rounds(round_index)),
        },
    )
    make_rollouts(run, round_index)
    score_rollouts(run, round_index)
    if run.config.select is not None:
        selection.pass_rates(run.folder(round_index), run.config.select.outcome)
    shape_rollouts(run, round_index)
    update_policy(run, round_index)
    evaluate_round(run, round_index, whole=is_last)
    summary = _summary(run, round_index)
    record_round(run.url, round_index, {"metrics": {"shaped": asdict(summary)}})
    apply_budget(run, round_index)
    return summary


def _summary(run: Run, round_index: int) -> ShapedSummary:
    """What a round shaped, summed up: from its rows, or from the lineage where those were deleted by a rule."""
    shaped = run.folder(round_index, "shaped")
    if shards.deletion_of(shaped) is None:
        return summarize_shaped(shards.open_dataset(shaped))
    return ShapedSummary(**read_rounds(run.url)[round_index]["metrics"]["shaped"])


def make_rollouts(run: Run, round_index: int) -> Manifest:
    """The datasets `prompts` and `rollouts` of a round."""
    config = run.config.at_round(round_index)
    prompts = run.folder(round_index, "prompts")
    _recorded(
        run,
        round_index,
        "prompts",
        lambda report: _write_prompts(run, _prompts_of(run, round_index), prompts, report),
    )
    return _recorded(
        run,
        round_index,
        "rollouts",
        lambda report: generate(
            prompts=prompts,
            out=run.folder(round_index, "rollouts"),
            model=run.starting_policy(round_index),
            engine=config.engine,
            options=config.generate,
            seed=config.run.seed,
            round=round_index,
            operations=run.operations(report, "generate"),
        ),
    )


def _prompts_of(run: Run, round_index: int) -> PromptSource:
    """The prompts of a round; those that [select] chooses are written down with why."""
    source, select = round_prompts(run.config, round_index), run.config.select
    if select is None:
        return source
    earlier = [run.folder(index) for index in range(round_index)]
    choices = selection.chosen(source, selection.last_measured(earlier, select.outcome), select)
    content = json.dumps(selection.as_json(choices), indent=1)
    Store(run.folder(round_index)).put(selection.SELECTION, content.encode())
    record_round(run.url, round_index, {"selection": selection.reasons(choices)})
    return selection.selected_source(source, choices)


def score_rollouts(run: Run, round_index: int, names: Iterable[str] = ()) -> dict[str, Manifest]:
    """The configured signals of a round (or the named ones), each after those it reads. Returns name -> manifest."""
    folder, policy = run.folder(round_index), run.starting_policy(round_index)
    return {
        name: _recorded(run, round_index, f"signals/{name}", partial(_score, run, name, folder=folder, policy=policy))
        for name in run.wanted_signals(names)
    }


def reverify_rollouts(run: Run, round_index: int, names: Iterable[str] = ()) -> dict[str, VerdictDiff]:
    """The verdicts of a round's outcome signals (or the named ones) computed again; name -> how they differ."""
    diffs = {}
    for name, signal in run.wanted_signals(names).items():
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
    """The shaped dataset of a round; another `name` keeps several shapings of the same rollouts side by side.

    Raises ConfigError where the name cannot be a folder's, or is that of something else in the round.
    """
    check_name(name, key="name", reserved={*ROUND_FOLDERS, name} if name.startswith("eval-") else ROUND_FOLDERS)
    return _recorded(
        run,
        round_index,
        name,
        lambda report: shape_dataset(
            rollouts=run.folder(round_index, "rollouts"),
            signals=run.folder(round_index, "signals"),
            out=run.folder(round_index, name),
            options=run.config.at_round(round_index).shape,
            operations=run.operations(report, "shape"),
        ),
    )


def update_policy(run: Run, round_index: int) -> dict[str, Any]:
    """Train on the round's shaped dataset; optimizer and schedule go on from the round before. Returns mean metrics.

    The trainer has the device to itself. Raises DeviceHeldError where an engine of this process cannot give it up.
    """
    from pipelines.engines import device_lent
    from trainer import is_main_process

    policy = run.starting_policy(round_index)
    facts = describe_model(policy)
    with (
        run.reporter.step(f"round {round_index}: train") as report,
        training_folders(run, round_index, report) as folders,
        device_lent("the trainer"),
    ):
        result = trainer_for(run.config.runner.gpus)(
            shaped=[run.folder(index, "shaped") for index in run.trained_rounds(round_index)],
            policy=local_model(policy),
            out=folders.out,
            state=folders.state,
            options=run.config.at_round(round_index).train,
            policy_digest=facts.digest,
            vocabulary=asdict(facts.vocabulary),
            export=folders.export,
            progress=folders.progress,
        )
    if is_main_process():
        record_round(run.url, round_index, {"metrics": {"train": result.metrics}})
        remove_old_states(run, round_index)
    return dict(result.metrics)


def evaluate_start(run: Run) -> dict[str, EvalResult]:
    """The policy before round 0 on every benchmark."""
    policy = run.config.policy.model
    results = _evaluate_all(run, policy, posixpath.join(run.url, "start", "eval"), title="start")
    if results:
        facts = {
            "policy": pinned_model(policy),
            "policy_digest": model_digest(policy),
            "metrics": {"eval": _figures(results)},
        }
        record_start(run.url, facts)
    return results


def evaluate_round(run: Run, round_index: int, *, whole: bool = True) -> dict[str, EvalResult]:
    """The policy that a round made, on every benchmark. whole=False: on `eval.between` prompts only."""
    policy, folder = run.folder(round_index, "policy"), run.folder(round_index, "eval")
    results = _evaluate_all(run, policy, folder, title=f"round {round_index}", whole=whole)
    record_round(run.url, round_index, {"metrics": {"eval": _figures(results)}})
    return results


def _figures(results: Mapping[str, EvalResult]) -> dict[str, dict[str, float]]:
    """What the lineage says of an evaluation."""
    return {
        name: {f"pass@{k}": estimate.value for k, estimate in result.pass_at.items()}
        for name, result in results.items()
    }


def evaluate(run: Run, *, round_index: int | None = None, policy: str | None = None) -> dict[str, EvalResult]:
    """What `passrl eval` does: any model folder, else the policy a round made, else the configured one."""
    wanted_evaluation(run.config.eval)
    if policy is not None:
        folder = posixpath.join(run.url, "eval", model_digest(policy)[:8])
        return _evaluate_all(run, policy, folder, title=posixpath.basename(policy.rstrip("/")))
    return evaluate_start(run) if round_index is None else evaluate_round(run, round_index)


def _evaluate_all(run: Run, policy: str, folder: str, *, title: str, whole: bool = True) -> dict[str, EvalResult]:
    """One policy on every benchmark: rollouts and verdicts as datasets in `folder`/NAME, and results.json beside them;
    what all of them came to in `folder` itself.

    All are sampled before any is judged, so that one engine serves them all. whole=False: on N = `eval.between` prompts
    only, in `folder`-N.
    """
    options = run.config.eval
    if options is None or not options.benchmarks:
        return {}
    asked = {name: options.asked(name, whole=whole) for name in options.benchmarks}
    places = {name: posixpath.join(f"{folder}{suffix}", name) for name, (suffix, _) in asked.items()}
    for name, (_, source) in asked.items():
        with run.reporter.step(f"{title}: evaluate {name}") as report:
            _sample_benchmark(run, source, report, policy=policy, folder=places[name])
    for name, place in places.items():
        judges = run.judges(name)
        for number, (signal_name, signal) in enumerate(judges.items(), start=1):
            with run.reporter.step(f"{title}: judge {name} ({number} of {len(judges)})") as report:
                _score(run, signal_name, report, signal=signal, folder=place, policy=policy, stage="eval")
    results = {name: _count_benchmark(run, name, place) for name, place in places.items()}
    for top in dict.fromkeys(posixpath.dirname(place) for place in places.values()):
        write_tables(top, [results[name] for name, place in places.items() if posixpath.dirname(place) == top])
    return results


def _sample_benchmark(run: Run, source: PromptSource, report: Report, *, policy: str, folder: str) -> None:
    options = run.config.eval
    assert options is not None
    prompts = posixpath.join(folder, "prompts")
    _write_prompts(run, source, prompts, report)
    generate(
        prompts=prompts,
        out=posixpath.join(folder, "rollouts"),
        model=policy,
        engine=run.config.engine,
        options=replace(run.config.generate, sampling=run.config.eval_sampling, group_size=options.samples),
        seed=options.seed,
        operations=run.operations(report, "eval"),
    )


def _count_benchmark(run: Run, name: str, folder: str) -> EvalResult:
    options = run.config.eval
    assert options is not None
    places = ("prompts", "rollouts", posixpath.join("signals", options.outcome))
    datasets = [shards.open_dataset(posixpath.join(folder, place)) for place in places]
    result = evaluate_rollouts(*datasets, benchmark=name, k=options.k, majority=options.majority)
    Store(folder).put(RESULTS, result.to_json().encode())
    return result


def _score(
    run: Run,
    name: str,
    report: Report,
    *,
    folder: str,
    policy: str,
    signal: Signal | None = None,
    stage: str = "score",
) -> Manifest:
    """One signal of the rollouts in `folder`, made by `policy`; the configured one of that name where none is given."""
    signal = signal or run.signals[name]
    return score(
        signal=signal,
        rollouts=posixpath.join(folder, "rollouts"),
        out=posixpath.join(folder, "signals", name),
        prompts=posixpath.join(folder, "prompts"),
        signals={needed: posixpath.join(folder, "signals", needed) for needed in signal.inputs if needed != "prompts"},
        tokenizer=policy,
        operations=run.operations(report, stage),
    )


def _write_prompts(run: Run, source: PromptSource, out: str, report: Report) -> Manifest:
    return write_prompts(
        source, out=out, overwrite=run.overwrite, max_reject_rate=run.config.operations.max_reject_rate, progress=report
    )


def _recorded(run: Run, round_index: int, name: str, stage: Callable[[Report], Manifest]) -> Manifest:
    """Run one stage under a progress bar, tell what it rejected, write its dataset into the lineage."""
    with run.reporter.step(f"round {round_index}: {name}") as report:
        manifest = stage(report)
    for reason, count in manifest.rejected.items():
        run.reporter.note(f"    rejected: {count} x {reason} (see {run.folder(round_index, name)}/_rejected)")
    record_round(run.url, round_index, {"datasets": {name: manifest.content_digest}})
    return manifest
