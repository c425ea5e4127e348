"""The commands that ask what is stored, and write nothing into a dataset: see `pipelines.inspect`."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_ops import shards
from pipelines.runs.progress import Reporter

if TYPE_CHECKING:
    from pipelines.inspect.sweep.choose import ChooseOptions

_LOG = logging.getLogger(__name__)


def inspect(options: Namespace) -> int | None:
    """A group, or one rollout chunk by chunk; of a RUN its trainings."""
    import polars as pl

    from pipelines.inspect.chunk_texts import text_decoder
    from pipelines.inspect.views import group_summary, group_table, read_part, rollout_chunks
    from pipelines.inspect.views.frames import frame_view
    from pipelines.inspect.views.training import is_training

    if is_training(options.dataset):
        _inspect_training(options)
        return None
    part = read_part(options.dataset, options.part)
    decoder = None
    if options.rollout is not None:
        decoder = text_decoder(shards.open_dataset(options.dataset), tokenizer=options.tokenizer)
        view = rollout_chunks(part, options.group, options.rollout, decode=decoder.decode)
    elif options.group is None and "prompt_id" in part.schema.names:
        view = pl.DataFrame(pl.from_arrow(part))
    else:
        view = group_table(part, options.group)
    if options.json:
        print(view.write_json())
        return None
    reporter = Reporter()
    if options.group is None and options.rollout is None and "prompt_id" not in part.schema.names:
        reporter.print(frame_view(group_summary(part), title=f"Groups of part {options.part}"))
        reporter.print(frame_view(view, title="Rollouts of the first group"))
    else:
        reporter.print(frame_view(view, whole=options.rollout is not None))
    if decoder is not None and decoder.decode is None:
        reporter.print(f"without the chunks' text: {decoder.why}")
    return None


def _inspect_training(options: Namespace) -> None:
    """One row a round, and a picture of every step."""
    from pipelines.inspect.pictures import picture_format
    from pipelines.inspect.views.training import (
        read_trainings,
        start_pass_at_1,
        training_picture,
        training_rows,
        training_sheet,
    )
    from pipelines.runs.places import check_file

    plot = Path(options.plot or Path(options.dataset) / "training.svg")
    check_file(plot, key="--plot")
    suffix = picture_format(str(plot))
    trainings = read_trainings(options.dataset)
    plot.write_bytes(training_picture(trainings, start=start_pass_at_1(options.dataset), suffix=suffix))
    if options.json:
        print(json.dumps({"plot": str(plot), "rounds": training_rows(trainings)}, indent=1))
        return
    Reporter().print(training_sheet(trainings))
    print(f"every step: {plot}")


def status(options: Namespace) -> int | None:
    """How far a run is, from the store alone."""
    from pipelines.inspect.views.status import status_sheet

    found = shards.status(options.url)
    if options.json:
        print(json.dumps(asdict(found), indent=1, default=str))
    else:
        Reporter().print(status_sheet(found))
    return None


def top(options: Namespace) -> None:
    """How far a run is, again and again on a terminal until interrupted; else once."""
    from pipelines.inspect.watch import follow, snapshot, snapshot_view

    reporter = Reporter()
    if reporter.console.is_terminal and not (options.once or options.json):
        follow(options.url, console=reporter.console, every=options.every)
    found = snapshot(options.url)
    if options.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        reporter.print(snapshot_view(found))


def verify(options: Namespace) -> int | None:
    """Every promise of the contract, with the first offenders; of a RUN also what connects its datasets."""
    from pipelines.runs.verify import verify

    findings = verify(options.url)
    errors = [finding for finding in findings if finding.severity == "error"]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, default=str))
    else:
        for finding in findings:
            print(f"{finding.severity}: {finding.code}: {finding.where}: {finding.message}")
        print(f"{options.url}: {'clean' if not errors else f'{len(errors)} promises of the contract are broken'}")
    return 1 if errors else None


def sweep(options: Namespace) -> int | None:
    """Other shaping options over what is stored."""
    from pipelines.inspect.sweep.choose import Chooser
    from pipelines.inspect.sweep.distinct import distinct
    from pipelines.inspect.sweep.report import sweep_parquet, sweep_svg, sweep_view
    from pipelines.inspect.sweep.settings import grid_settings, sweep
    from pipelines.options.overrides import parse_grid
    from pipelines.runs.config import load_config, module_folders
    from pipelines.runs.places import check_folder
    from pipelines.runs.run import Run

    reporter = Reporter(quiet=options.json)
    work = Run(
        config=load_config(options.config, options.overrides),
        url=options.out,
        reporter=reporter,
        modules=module_folders(options.config),
    )
    check_folder(work.folder(options.round, "sweep"), key="--out")
    settings = distinct(grid_settings(work.config.shape, parse_grid(options.grid)))
    signals = work.folder(options.round, "signals")
    asked = _choose_options(options)
    with reporter.step(f"{len(settings)} settings") as report:
        found = sweep(
            rollouts=work.folder(options.round, "rollouts"),
            signals=signals,
            settings=settings,
            watcher=Chooser(asked, signals=signals, train=work.config.train),
            progress=report,
            left_out=partial(_LOG.warning, "Setting %s is left out, since it cannot be computed here: %s"),
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


def _choose_options(options: Namespace) -> ChooseOptions:
    """What `passrl sweep` was asked to hold the settings against. Raises ConfigError."""
    from pipelines.inspect.sweep.choose import ChooseOptions
    from pipelines.options import build

    names = ("truth", "truth_as", "forecast_steps", "forecast_scores", "policy", "groups", "seed")
    given = {name: getattr(options, name) for name in names}
    given["forecast"] = options.forecast or options.truth is not None
    known = {name: value for name, value in given.items() if value is not None}
    return build(ChooseOptions, known, where="passrl sweep")


def explain(options: Namespace) -> int | None:
    """One rollout's arithmetic; exit code 1 where it does not give the stored values."""
    from pipelines.inspect.chunk_texts import text_decoder
    from pipelines.inspect.explain.explanation import explain_rollout
    from pipelines.inspect.explain.text import explanation_view

    explanation = explain_rollout(options.run, options.rollout_id, round_index=options.round, name=options.name)
    decoder = text_decoder(shards.open_dataset(explanation.dataset), tokenizer=options.tokenizer)
    if options.json:
        texts = decoder.texts(explanation.token_ids, explanation.stored.chunk_ends)
        print(json.dumps(asdict(explanation) | {"texts": texts}, indent=1))
    else:
        Reporter().print(explanation_view(explanation, decoder=decoder, every_chunk=options.all))
    return None if explanation.agrees else 1


def diff(options: Namespace) -> None:
    """Two runs side by side."""
    from pipelines.inspect.diff.runs import diff_runs
    from pipelines.inspect.diff.text import diff_view

    found = diff_runs(options.run, options.other)
    if options.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        Reporter().print(diff_view(found))


def lint(options: Namespace) -> int | None:
    """What would spoil a training on this dataset; exit code 1 where a finding is an error."""
    from pipelines.inspect.lint.checks import lint
    from pipelines.inspect.lint.findings import LintOptions
    from pipelines.inspect.lint.text import findings_view
    from pipelines.options import build

    thresholds = _table_of(options.overrides)
    reporter = Reporter(quiet=options.json)
    with reporter.step("lint") as report:
        findings = lint(options.dataset, build(LintOptions, thresholds, where="thresholds"), progress=report)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        reporter.console.print(findings_view(options.dataset, findings))
    return 1 if any(finding.severity == "error" for finding in findings) else None


def prm_check(options: Namespace) -> int | None:
    """How good a process signal is: against truer values of the same steps, or against published labels."""
    from pipelines.inspect.prm_check.check import check_signal
    from pipelines.inspect.prm_check.text import report_view
    from pipelines.signals import SignalInputError

    if options.labels is not None:
        return _prm_check_labels(options)
    if None in (options.run, options.signal, options.truth):
        raise SignalInputError(
            "nothing says what to check: give RUN with --signal and --truth, or --labels with --model or --scores"
        )
    _refuse_others(options, ("model", "scores", "overrides", "save_scores", "shape", "limit"), what="--labels")
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


def _prm_check_labels(options: Namespace) -> int | None:
    """A process reward model, or its stored scores, against published labels."""
    from pipelines.engines import release
    from pipelines.inspect.prm_check.labels import check_labels, shaping
    from pipelines.inspect.prm_check.labels_text import labels_view
    from pipelines.inspect.prm_check.scores import as_row, model_scores, prm_signal, stored_scores
    from pipelines.labels import label_format
    from pipelines.runs.places import check_file

    name, url = _labels_and_file(options)
    form = label_format(name)
    prm, shape = _table_of(options.overrides), _table_of(options.shape)
    if options.save_scores is not None:
        check_file(Path(options.save_scores), key="--save-scores")
    rows: list[bytes] = []
    reporter = Reporter(quiet=options.json)
    try:
        stored = options.model is None
        scores = stored_scores(options.scores) if stored else model_scores(prm_signal(options.model, prm))
        with reporter.step(f"prm-check {name}") as progress:
            report = check_labels(
                form,
                url,
                scores=scores,
                tokenizer=options.tokenizer or options.model,
                threshold=options.threshold,
                config=shaping(shape),
                limit=options.limit,
                max_reject_rate=options.max_reject_rate,
                scored=None if options.save_scores is None else lambda *one: rows.append(as_row(*one)),
                progress=progress,
            )
    finally:
        release()
        if options.save_scores is not None and rows:  # where the labels are refused too: a GPU made them
            Path(options.save_scores).write_bytes(b"".join(rows))
            reporter.line(f"wrote {options.save_scores}")
    if options.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        reporter.console.print(labels_view(report, scores=Path(options.model or options.scores).name))
    return None


def _labels_and_file(options: Namespace) -> tuple[str, str]:
    """The format of the labels and their file. Raises SignalInputError, for arguments that do not go with them too."""
    from pipelines.signals import SignalInputError

    if (options.model is None) == (options.scores is None) or options.run is not None:
        raise SignalInputError("--labels goes with --model or --scores, one of them, and without RUN")
    _refuse_others(options, ("signal", "truth", "round", "padding"), what="RUN")
    if options.scores is not None:
        _refuse_others(options, ("overrides", "save_scores"), what="--model")
    name, separator, url = options.labels.partition(":")
    if not separator:
        raise SignalInputError(f"--labels {options.labels}: write it as FORMAT:FILE, say processbench:gsm8k.json")
    return name, url


def _table_of(overrides: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE arguments as a table."""
    from pipelines.options.overrides import apply_override

    found: dict[str, Any] = {}
    for override in overrides:
        apply_override(found, override)
    return found


def _refuse_others(options: Namespace, names: Sequence[str], *, what: str) -> None:
    """Refuse arguments that would have no effect. Raises SignalInputError."""
    from pipelines.signals import SignalInputError

    for name in names:
        if getattr(options, name):  # the defaults are None, 0 and no list
            flag = "--set" if name == "overrides" else f"--{name.replace('_', '-')}"
            raise SignalInputError(f"{flag} goes with {what} only and would have no effect here; leave it out")
