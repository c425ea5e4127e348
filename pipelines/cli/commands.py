"""What each `passrl` command does: read the options, call the room that knows, show the result.

Every function takes the parsed options and returns an exit code, None for done.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_ops import shards
from pipelines.runs.progress import Reporter

if TYPE_CHECKING:
    from pipelines.runs.run import Run

Command = Callable[[Namespace], "int | None"]


def configured(*stages: str, checks: bool = True) -> Callable[[Callable[[Namespace, Run], None]], Command]:
    """A command that runs these stages of the run that it opens from the configuration.

    It is checked before anything runs, unless the body does so itself (checks=False). Under --dry-run the command only
    says what it would do, or why it would not.
    """

    def decorate(body: Callable[[Namespace, Run], None]) -> Command:
        @wraps(body)
        def command(options: Namespace) -> int | None:
            from pipelines.runs.check import check_run

            work = _open_run(options)
            scope = {"stages": stages, **_scope(options, work)}
            if options.dry_run:
                _dry_run(options, work, scope)
                return None
            if checks:
                check_run(work, **scope)
            body(options, work)
            return None

        return command

    return decorate


@configured("generate", "score", "shape", "train", "eval", checks=False)
def run(options: Namespace, work: Run) -> None:
    """One round."""
    from pipelines.runs.rounds import run_round

    summary = run_round(work, options.round)
    _show(options, f"round {options.round} is complete in {work.folder(options.round)}", asdict(summary))


@configured("generate", "score", "shape", "train", "eval", checks=False)
def rounds(options: Namespace, work: Run) -> None:
    """Several rounds."""
    from pipelines.runs.lineage import read_lineage
    from pipelines.runs.rounds import run_rounds

    count = _rounds(options, work)
    run_rounds(work, count)
    _show(options, f"{count} rounds are complete in {work.url}", read_lineage(work.url))


def init(options: Namespace) -> None:
    """A configuration to start from. Raises ConfigError where the file is there already."""
    from pipelines.cli.starter import starter
    from pipelines.options import ConfigError

    try:
        with open(options.file, "x", encoding="utf-8") as file:
            file.write(starter())
    except OSError as error:
        raise ConfigError(f"{options.file}: cannot be written ({error.strerror}); give another path") from error
    _show(options, f"wrote {options.file}; set prompts.source and policy.model in it", {"file": options.file})


def options(options: Namespace) -> None:
    """What there is to say about every option."""
    from pipelines.cli.reference import chosen, plain

    shown = chosen(options.section)
    _show(options, "\n".join(plain(shown)), [asdict(section) for section in shown])


def schema(options: Namespace) -> None:  # noqa: ARG001 - every command takes them
    """The JSON Schema of a configuration."""
    from pipelines.cli.reference import config_schema

    print(json.dumps(config_schema(), indent=1, ensure_ascii=False))


@configured("generate")
def generate(options: Namespace, work: Run) -> None:
    """Prompts and rollouts of a round."""
    from pipelines.runs.rounds import make_rollouts

    _show_manifest(options, work.folder(options.round, "rollouts"), make_rollouts(work, options.round))


@configured("score")
def score(options: Namespace, work: Run) -> None:
    """Signals of a round; with --reverify, what its verdicts would be now."""
    from pipelines.runs.rounds import score_rollouts

    if options.reverify:
        _reverify(options, work)
        return
    manifests = score_rollouts(work, options.round, options.signal)
    if options.json:
        print(json.dumps({name: asdict(manifest) for name, manifest in manifests.items()}, indent=1))
    else:
        for name, manifest in manifests.items():
            _show_manifest(options, work.folder(options.round, "signals", name), manifest)


def _reverify(options: Namespace, work: Run) -> None:
    from pipelines.runs.rounds import reverify_rollouts
    from pipelines.signals.reverify import diff_lines

    diffs = reverify_rollouts(work, options.round, options.signal)
    lines = [line for name, diff in diffs.items() for line in diff_lines(name, diff)]
    _show(options, "\n".join(lines), {name: asdict(diff) for name, diff in diffs.items()})


@configured("shape")
def shape(options: Namespace, work: Run) -> None:
    """The shaped dataset of a round."""
    from pipelines.runs.rounds import shape_rollouts

    _show_manifest(options, work.folder(options.round, options.name), shape_rollouts(work, options.round, options.name))


@configured("train")
def train(options: Namespace, work: Run) -> None:
    """The update of a round."""
    from pipelines.runs.rounds import update_policy

    metrics = update_policy(work, options.round)
    policy = work.folder(options.round, "policy")
    _show(options, f"policy: {policy}", {"policy": policy, "metrics": metrics})


def sft(options: Namespace) -> None:
    """Supervised training, beside any run."""
    from pipelines.options import build
    from pipelines.runs.config import apply_override
    from trainer import TrainOptions, sft

    given: dict[str, Any] = {"loss": "next_token", "aggregation": "token_mean"}
    for override in options.overrides:
        apply_override(given, override)
    with Reporter(quiet=options.json).step("sft") as report:
        result = sft(
            options.pairs,
            policy=options.policy,
            out=options.out,
            options=build(TrainOptions, given, where="--set"),
            progress=report,
        )
    _show(options, f"policy: {result.policy_dir}", {"policy": result.policy_dir, "metrics": dict(result.metrics)})


@configured("eval")
def eval(options: Namespace, work: Run) -> None:  # noqa: A001 - the command's name
    """pass@k of a policy."""
    from pipelines.runs.rounds import evaluate

    results = evaluate(work, round_index=options.round, policy=options.policy)
    lines = [
        f"{name}: "
        + ", ".join(
            f"pass@{k} {100 * e.value:.1f} +- {100 * e.standard_error:.1f} %" for k, e in result.pass_at.items()
        )
        for name, result in results.items()
    ]
    _show(options, "\n".join(lines), {name: json.loads(result.to_json()) for name, result in results.items()})


def inspect(options: Namespace) -> int | None:
    """A group, or one rollout chunk by chunk; of a RUN its trainings."""
    import polars as pl

    from pipelines.inspect.views import group_summary, group_table, read_part, rollout_chunks
    from pipelines.inspect.views.training import is_training

    if is_training(options.dataset):
        _inspect_training(options)
        return None
    part = read_part(options.dataset, options.part)
    if options.rollout is not None:
        view = rollout_chunks(part, options.group, options.rollout)
    elif options.group is None and "prompt_id" in part.schema.names:
        view = pl.DataFrame(pl.from_arrow(part))
    else:
        view = group_table(part, options.group)
    if options.json:
        print(view.write_json())
        return None
    with pl.Config(tbl_rows=200, tbl_cols=20, fmt_str_lengths=60, tbl_width_chars=180, tbl_hide_dataframe_shape=True):
        if options.group is None and options.rollout is None and "prompt_id" not in part.schema.names:
            print(group_summary(part))
        print(view)
    return None


def _inspect_training(options: Namespace) -> None:
    """One row a round, and a picture of every step."""
    from pipelines.inspect.views.training import read_trainings, training_rows, training_svg, training_table

    trainings = read_trainings(options.dataset)
    plot = Path(options.plot or Path(options.dataset) / "training.svg")
    plot.write_bytes(training_svg(trainings))
    if options.json:
        print(json.dumps({"plot": str(plot), "rounds": training_rows(trainings)}, indent=1))
        return
    Reporter().print(training_table(trainings))
    print(f"every step: {plot}")


def status(options: Namespace) -> int | None:
    """How far a run is, from the store alone."""
    from pipelines.inspect.views.status import status_table

    found = shards.status(options.url)
    if options.json:
        print(json.dumps(asdict(found), indent=1, default=str))
    else:
        Reporter().print(status_table(found))
    return None


def verify(options: Namespace) -> int | None:
    """Every promise of the contract, with the first offenders."""
    findings = shards.verify(options.url)
    errors = [finding for finding in findings if finding.severity == "error"]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, default=str))
    else:
        for finding in findings:
            print(f"{finding.severity}: {finding.code}: {finding.where}: {finding.message}")
        print(f"{options.url}: {'clean' if not errors else f'{len(errors)} promises of the contract are broken'}")
    return 1 if errors else None


def finalize(options: Namespace) -> int | None:
    """The manifest of a dataset whose parts are all committed."""
    manifest = shards.finalize(shards.load_dataset(options.url), max_reject_rate=options.max_reject_rate)
    _show_manifest(options, options.url, manifest)
    return None


def sweep(options: Namespace) -> int | None:
    """Other shaping options over what is stored."""
    from pipelines.inspect.sweep.report import sweep_parquet, sweep_svg, sweep_view
    from pipelines.inspect.sweep.settings import grid_settings, sweep
    from pipelines.runs.config import load_config, parse_grid
    from pipelines.runs.run import Run

    reporter = Reporter(quiet=options.json)
    work = Run(
        config=load_config(options.config, options.overrides),
        url=options.out,
        reporter=reporter,
        modules=_beside(options.config),
    )
    settings = grid_settings(work.config.shape, parse_grid(options.grid))
    with reporter.step(f"{len(settings)} settings") as report:
        found = sweep(
            rollouts=work.folder(options.round, "rollouts"),
            signals=work.folder(options.round, "signals"),
            settings=settings,
            progress=report,
        )
    store = shards.Store(work.folder(options.round, "sweep"))
    for suffix, content in (("parquet", sweep_parquet(found)), ("svg", sweep_svg(found))):
        store.put(f"{options.name}.{suffix}", content)
        reporter.line(f"wrote {store.path(f'{options.name}.{suffix}')}")
    if options.json:
        print(json.dumps([asdict(result) for result in found], indent=1, default=str))
    else:
        reporter.console.print(sweep_view(found))
    return None


def explain(options: Namespace) -> int | None:
    """One rollout's arithmetic; exit code 1 where it does not give the stored values."""
    from pipelines.inspect.explain.explanation import explain_rollout
    from pipelines.inspect.explain.text import explanation_view

    explanation = explain_rollout(options.run, options.rollout_id, round_index=options.round, name=options.name)
    if options.json:
        print(json.dumps(asdict(explanation), indent=1))
    else:
        Reporter().console.print(explanation_view(explanation, every_chunk=options.all))
    return None if explanation.agrees else 1


def lint(options: Namespace) -> int | None:
    """What would spoil a training on this dataset; exit code 1 where a finding is an error."""
    from pipelines.inspect.lint.checks import LintOptions, lint
    from pipelines.inspect.lint.text import findings_view
    from pipelines.options import build
    from pipelines.runs.config import apply_override

    thresholds: dict[str, Any] = {}
    for override in options.overrides:
        apply_override(thresholds, override)
    reporter = Reporter(quiet=options.json)
    with reporter.step("lint") as report:
        findings = lint(options.dataset, build(LintOptions, thresholds, where="thresholds"), progress=report)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        reporter.console.print(findings_view(options.dataset, findings))
    return 1 if any(finding.severity == "error" for finding in findings) else None


def prm_check(options: Namespace) -> int | None:
    """How good a process signal is against truer values of the same steps."""
    from pipelines.inspect.prm_check.check import check_signal
    from pipelines.inspect.prm_check.text import report_view

    reporter = Reporter(quiet=options.json)
    with reporter.step(f"prm-check {options.signal}") as progress:
        report = check_signal(
            options.run,
            signal=options.signal,
            truth=options.truth,
            round_index=options.round,
            threshold=options.threshold,
            padding=options.padding,
            tokenizer=options.tokenizer,
            progress=progress,
        )
    if options.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        reporter.console.print(report_view(report, signal=options.signal, truth=options.truth))
    return None


def demo(options: Namespace) -> int | None:
    """The demo."""
    from pipelines.demo.run import run_demo

    result = run_demo(
        options.out, seed=options.seed, overrides=options.overrides, overwrite=options.overwrite, quiet=options.json
    )
    if options.json:
        print(json.dumps(result, indent=1))
    return None


def _open_run(options: Namespace) -> Run:
    """The run that a command names, with what the command line says of the runner."""
    from pipelines.runs.config import load_config
    from pipelines.runs.run import Run

    config = load_config(options.config, options.overrides)
    flags = (*config.runner.flags, *options.beam_args)
    return Run(
        config=replace(config, runner=replace(config.runner, name=options.runner or config.runner.name, flags=flags)),
        url=options.out,
        reporter=Reporter(quiet=options.json),
        overwrite=options.overwrite,
        modules=_beside(options.config),
    )


def _beside(config: str) -> tuple[str, ...]:
    """Where modules of the user's own are found: the folder of the configuration file."""
    return (str(Path(config).resolve().parent),)


def _rounds(options: Namespace, work: Run) -> int:
    return work.config.run.rounds if options.rounds is None else int(options.rounds)


def _scope(options: Namespace, work: Run) -> dict[str, Any]:
    """Of the arguments of `check_run`, those that the command line decides."""
    if options.command == "rounds":
        return {"rounds": _rounds(options, work)}
    if options.command == "eval":
        made = None if options.round is None else work.folder(options.round, "policy")
        return {"policy": options.policy or made}
    return {"round_index": options.round, "signals": getattr(options, "signal", ())}


def _dry_run(options: Namespace, work: Run, scope: Mapping[str, Any]) -> None:
    """The resolved configuration and what a round would cost, as JSON; RunRefused where the run would be refused.

    What cannot be checked here, for a package is not installed, is told under "unchecked".
    """
    from pipelines.options import as_dict
    from pipelines.runs.check import RunRefused, find_problems
    from pipelines.runs.cost import estimate_round

    found = find_problems(work, **scope)
    if found.problems:
        raise RunRefused(found.problems)
    estimate = estimate_round(
        work.config,
        found.prompts,
        policy=found.policy,
        tokens_per_second=options.tokens_per_second,
        training_tflops=options.training_tflops,
    )
    told = {"config": as_dict(work.config), "estimate": asdict(estimate), "unchecked": list(found.missing)}
    print(json.dumps(told, indent=1))


def _show(options: Namespace, text: str, result: Any) -> None:
    """The result: a text for people, or under --json one JSON value on standard output."""
    print(json.dumps(result, indent=1, default=str) if options.json else text)


def _show_manifest(options: Namespace, folder: str, manifest: shards.Manifest) -> None:
    totals = manifest.totals
    text = f"{folder}: {totals['rows']:,} rows, {totals['tokens']:,} tokens in {totals['parts']} parts"
    _show(options, text, {"folder": folder} | asdict(manifest))
