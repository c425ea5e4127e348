"""What each `passrl` command does: read the options, call the room that knows, show the result.

Every function takes the parsed options and returns an exit code, None for done.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from pass_ops import shards
from pass_ops.errors import NotADatasetError, PassError
from pipelines.cli.show import show, show_manifest
from pipelines.runs.progress import Reporter

if TYPE_CHECKING:
    from pipelines.runs.cost import Estimate
    from pipelines.runs.findings import Findings
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
            from pipelines.runs.leftovers import leftovers, remove_leftovers

            work = _open_run(options)
            scope = {"stages": stages, **_scope(options, work)}
            if options.dry_run:
                _dry_run(options, work, scope)
                return None
            if checks:
                check_run(work, **scope)
                remove_leftovers(leftovers(work.url))
            body(options, work)
            return None

        return command

    return decorate


@configured("generate", "score", "shape", "train", "eval", checks=False)
def run(options: Namespace, work: Run) -> None:
    """One round."""
    from pipelines.runs.results import result_rows, results_sheet
    from pipelines.runs.rounds import run_round

    summary = run_round(work, options.round)
    work.reporter.print(results_sheet(result_rows(work, {options.round: summary})))
    show(options, f"round {options.round} is complete in {work.folder(options.round)}", asdict(summary))


@configured("generate", "score", "shape", "train", "eval", checks=False)
def rounds(options: Namespace, work: Run) -> None:
    """Several rounds."""
    from pipelines.runs.lineage import read_lineage
    from pipelines.runs.results import result_rows, results_sheet
    from pipelines.runs.rounds import run_rounds

    made = run_rounds(work, _rounds(options, work))
    work.reporter.print(results_sheet(result_rows(work, made)))
    show(options, f"{len(made)} rounds are complete in {work.url}", read_lineage(work.url))


def init(options: Namespace) -> None:
    """A configuration to start from. Raises ConfigError where the file is there already."""
    from pipelines.cli.starter import starter
    from pipelines.options import ConfigError

    try:
        with open(options.file, "x", encoding="utf-8") as file:
            file.write(starter())
    except OSError as error:
        message = f"{options.file}: cannot be written ({error.strerror}); give another path"
        raise ConfigError(message, place=options.file, fix="give another path") from error
    show(options, f"wrote {options.file}; set prompts.source and policy.model in it", {"file": options.file})


def options(options: Namespace) -> None:
    """What there is to say about every option."""
    from pipelines.cli.reference import chosen, plain

    shown = chosen(options.section)
    show(options, "\n".join(plain(shown)), [asdict(section) for section in shown])


def schema(options: Namespace) -> None:
    """The JSON Schema of a configuration, or of what a command prints under --json."""
    if options.of is None:
        from pipelines.cli.reference import config_schema

        found = config_schema()
    else:
        from pipelines.cli.results import result_schema

        found = result_schema(options.of)
    print(json.dumps(found, indent=1, ensure_ascii=False))


@configured("generate")
def generate(options: Namespace, work: Run) -> None:
    """Prompts and rollouts of a round."""
    from pipelines.runs.rounds import make_rollouts

    show_manifest(options, work.folder(options.round, "rollouts"), make_rollouts(work, options.round))


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
            show_manifest(options, work.folder(options.round, "signals", name), manifest)


def _reverify(options: Namespace, work: Run) -> None:
    from pipelines.runs.rounds import reverify_rollouts
    from pipelines.signals.reverify import diff_lines

    diffs = reverify_rollouts(work, options.round, options.signal)
    lines = [line for name, diff in diffs.items() for line in diff_lines(name, diff)]
    show(options, "\n".join(lines), {name: asdict(diff) for name, diff in diffs.items()})


@configured("shape")
def shape(options: Namespace, work: Run) -> None:
    """The shaped dataset of a round."""
    from pipelines.runs.rounds import shape_rollouts

    show_manifest(options, work.folder(options.round, options.name), shape_rollouts(work, options.round, options.name))


@configured("train")
def train(options: Namespace, work: Run) -> None:
    """The update of a round."""
    from pipelines.runs.rounds import update_policy

    metrics = update_policy(work, options.round)
    policy = work.folder(options.round, "policy")
    show(options, f"policy: {policy}", {"policy": policy, "metrics": metrics})


def sft(options: Namespace) -> None:
    """Supervised training, beside any run."""
    from pipelines.options import build
    from pipelines.options.overrides import apply_override
    from pipelines.runs.places import check_folder
    from trainer import TrainOptions, sft

    check_folder(options.out, key="--out")
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
    show(options, f"policy: {result.policy_dir}", {"policy": result.policy_dir, "metrics": dict(result.metrics)})


@configured("eval")
def eval(options: Namespace, work: Run) -> None:  # noqa: A001 - the command's name
    """pass@k and maj@k of a policy."""
    from pipelines.runs.evaluation_files import read_evaluation, write_markdown
    from pipelines.runs.results import evaluation_sheet
    from pipelines.runs.rounds import evaluate

    beside = {folder: read_evaluation(folder) for folder in options.beside}  # refused before anything is sampled
    results = evaluate(work, round_index=options.round, policy=options.policy)
    table = write_markdown(work.url, beside)
    if options.json:
        print(json.dumps({name: json.loads(result.to_json()) for name, result in results.items()}, indent=1))
    else:
        work.reporter.print(evaluation_sheet(list(results.values())))
        print(f"all policies side by side: {table}")


def finalize(options: Namespace) -> int | None:
    """The manifest of a dataset whose parts are all committed."""
    manifest = shards.finalize(shards.load_dataset(options.url), max_reject_rate=options.max_reject_rate)
    show_manifest(options, options.url, manifest)
    return None


def export(options: Namespace) -> None:
    """A dataset in the format of another program."""
    from pipelines.exports.write import export, export_format, parsed_settings

    form = export_format(options.format)
    made = export(form, options.dataset, options.out, settings=parsed_settings(options.overrides))
    text = f"{options.out}: {made.rows:,} rows in {len(made.files)} files ({form.summary})"
    if made.left_out:
        text += f"; {made.left_out:,} rows that are not trainable are left out"
    show(options, text, {"folder": options.out} | asdict(made))


def clean(options: Namespace) -> int | None:
    """What killed processes left behind; removed only under --yes."""
    from pipelines.runs.leftovers import leftovers, remove_leftovers
    from pipelines.runs.verify import is_run

    if not is_run(options.url):
        fix = "check the path"
        raise NotADatasetError(f"{options.url} is no RUN folder; {fix}", place=options.url, fix=fix)
    found = leftovers(options.url)
    removed = remove_leftovers(found) if options.yes else []
    lines = [f"{leftover.path}: {leftover.why}, {leftover.bytes:,} bytes" for leftover in found]
    total = f"{sum(leftover.bytes for leftover in found):,} bytes in {len(found)} places"
    lines.append(f"{total}, {len(removed)} of them removed" if options.yes else f"{total}; remove them with --yes")
    told = [asdict(leftover) | {"removed": leftover in removed} for leftover in found]
    show(options, "\n".join(lines) if found else "nothing is left behind", told)
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


def doctor(options: Namespace) -> int | None:
    """What is installed and here; exit code 1 where something needed is missing."""
    from pipelines.runs.doctor import diagnose, diagnosis_lines

    found = diagnose(options.out, needs=options.needs)
    show(options, "\n".join(diagnosis_lines(found)), asdict(found))
    return 1 if found.problems else None


def completion(options: Namespace) -> None:
    """The lines by which a shell completes `passrl`."""
    from argcomplete.shell_integration import shellcode

    script = shellcode(["passrl"], shell=options.shell)
    show(options, script, {"shell": options.shell, "script": script})


def gpu_check(options: Namespace) -> int | None:
    """The checks of this machine, a JSON line each as it ends; exit code 1 where one failed."""
    from pipelines.gpu_check import CheckOptions, gpu_check

    lines = gpu_check(
        CheckOptions(
            out=options.out,
            only=tuple(options.only),
            device=options.device,
            minutes=options.minutes,
            report=options.report,
            trl=options.trl,
        )
    )
    return 1 if any(line.result.status == "failed" for line in lines) else None


def _open_run(options: Namespace) -> Run:
    """The run that a command names, with what the command line says of the runner."""
    from pipelines.runs.config import load_config, module_folders
    from pipelines.runs.run import Run

    config = load_config(options.config, options.overrides)
    flags = (*config.runner.flags, *options.beam_args)
    runner = replace(config.runner, name=options.runner or config.runner.name, flags=flags)
    given = options.runner is not None or options.beam_args  # on the command line: for every stage
    return Run(
        config=replace(config, runner=runner, runners={} if given else config.runners),
        url=options.out,
        reporter=Reporter(quiet=options.json),
        overwrite=options.overwrite,
        modules=module_folders(options.config),
    )


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


def _scheduled(work: Run, scope: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Round -> scheduled option -> its value, of the rounds that a command would make."""
    first, count = scope.get("round_index", 0), scope.get("rounds", 1)
    rounds = range(first, first + count) if work.config.schedule else ()
    return {str(index): work.config.scheduled_in(index) for index in rounds}


def _dry_run(options: Namespace, work: Run, scope: Mapping[str, Any]) -> None:
    """The resolved configuration, what a round (or an evaluation alone) would cost and what the evaluations beside it,
    as JSON; RunRefused where the run would be refused.

    What cannot be checked here, for a package is not installed, is told under "unchecked".
    """
    from pipelines.options import as_dict, as_json
    from pipelines.runs.check import RunRefused, find_problems

    found = find_problems(work, **scope, cards=options.gpu)
    if found.problems:
        raise RunRefused(found.problems)
    told = {
        "config": as_dict(work.config),
        "schedule": _scheduled(work, scope),
        "estimate": asdict(_estimate(options, work, found, stages=scope["stages"])),
        "evaluation": _evaluations(options, work, found, scope),
        "memory": [stage.as_json() for stage in found.memory],
        "unchecked": list(found.missing),
    }
    print(json.dumps(as_json(told), indent=1))


def _evaluations(options: Namespace, work: Run, found: Findings, scope: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of all evaluations that a command makes beside its rounds; None where it makes none."""
    from pipelines.runs.cost import estimate_evaluation

    if not found.benchmarks or set(scope["stages"]) == {"eval"}:
        return None
    speed, rounds = options.tokens_per_second, scope.get("rounds")
    return asdict(estimate_evaluation(work.config, found.benchmarks, rounds=rounds, tokens_per_second=speed))


def _estimate(options: Namespace, work: Run, found: Findings, *, stages: Collection[str]) -> Estimate:
    """Of an evaluation alone, or of the round that a command is part of, also where it reads no prompts itself."""
    from pipelines.prompts.stage import read_prompts
    from pipelines.runs.cost import estimate_evaluation, estimate_round
    from pipelines.runs.run import round_prompts

    if set(stages) == {"eval"}:
        return estimate_evaluation(work.config, found.benchmarks, tokens_per_second=options.tokens_per_second)
    rows = list(found.prompts)
    if "generate" not in stages:
        with suppress(PassError, OSError):  # a source that is gone stops no stage after generate
            rows = read_prompts(round_prompts(work.config, options.round))
    return estimate_round(
        work.config,
        rows,
        policy=found.policy,
        tokens_per_second=options.tokens_per_second,
        training_tflops=options.training_tflops,
    )
