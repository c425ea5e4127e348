"""`passrl import`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipelines.cli.argument_types import share
from pipelines.cli.show import show

if TYPE_CHECKING:
    from pipelines.imports.run import Imported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("format", nargs="?", help="what wrote the source; `rows` for any JSONL or Parquet, with --map")
    parser.add_argument("source", nargs="?", help="a file or a folder of them, local or any fsspec URL")
    parser.add_argument("--out", metavar="RUN", help="run folder: prompts, rollouts and signals of its round 0")
    parser.add_argument(
        "--map", dest="mapping", action="append", default=[], metavar="ROLE=COLUMN",
        help="of format rows: which column has which role (response, prompt, group, reward.NAME, ...); or a TOML file",
    )  # fmt: skip
    parser.add_argument("--tokenizer", metavar="FOLDER", help="encodes texts that came without ids, marked re-encoded")
    parser.add_argument("--chat", action="store_true", help="plain prompts went through the tokenizer's chat template")
    parser.add_argument("--temperature", type=float, help="what was sampled at, where the source does not say")
    parser.add_argument("--group-size", type=int, metavar="G", help="equal prompts in a row form groups of G rollouts")
    parser.add_argument("--name", help="of the data set (default: the source's first file)")
    parser.add_argument(
        "--rollouts-per-part", type=int, default=8192, metavar="N", help="the unit of work (default 8192)"
    )
    parser.add_argument(
        "--max-reject-rate", type=share, default=0.05, help="above this share of bad rows: refuse (default 0.05)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace datasets that were imported otherwise")
    parser.add_argument("--runner", default="direct", help="Beam runner (default direct)")
    parser.add_argument("--guess", metavar="FILE", help="import nothing: propose a format and a mapping for this file")


def import_(options: Namespace) -> None:
    """Import, or propose how. Raises ImportFormatError where an argument is missing."""
    if options.guess is not None:
        _guess(options)
        return
    from pipelines.imports.encode import PromptForm
    from pipelines.imports.formats import FORMATS, MAPPED
    from pipelines.imports.record import ImportFormatError
    from pipelines.imports.run import ImportOptions, import_rollouts
    from pipelines.parts.operations import Operations
    from pipelines.runners import RunnerOptions
    from pipelines.runs.progress import Reporter

    if None in (options.format, options.source, options.out):
        raise ImportFormatError(
            "give FORMAT SOURCE --out RUN, or --guess FILE; the formats are "
            + ", ".join([MAPPED, *(f"{form.name} ({form.about})" for form in FORMATS.values())])
        )
    reporter = Reporter(quiet=options.json)
    found = import_rollouts(
        options.source,
        out=options.out,
        options=ImportOptions(
            format=options.format,
            mapping=tuple(options.mapping),
            tokenizer=options.tokenizer,
            prompt_form=PromptForm(chat=options.chat),
            temperature=options.temperature,
            group_size=options.group_size,
            name=options.name,
            rollouts_per_part=options.rollouts_per_part,
        ),
        operations=Operations(
            runner=RunnerOptions(name=options.runner, flags=tuple(options.beam_args)),
            overwrite=options.overwrite,
            max_reject_rate=options.max_reject_rate,
        ),
        tell=reporter.line,
    )
    result = {"facts": asdict(found.facts), "datasets": {name: asdict(made) for name, made in found.manifests.items()}}
    show(options, "\n".join(_told(options, found)), result)


def _told(options: Namespace, found: Imported) -> list[str]:
    facts, rollouts = found.facts, found.manifests["rollouts"]
    lines = [f"{options.out}: {facts.groups:,} prompts, {rollouts.totals['rows']:,} rollouts"]
    lines += [f"  rejected: {count:,} x {reason}" for reason, count in rollouts.rejected.items()]
    rounded = "" if facts.decimals is None else f" to {facts.decimals} decimals"
    lines.append(f"  token ids {facts.ids}, log-probabilities {facts.logprobs}{rounded}, mask {facts.mask}")
    lines.append(f"  temperature {facts.temperature}" + ("" if facts.sampled_at is None else f", {facts.sampled_at:g}"))
    if facts.unknown:
        lines.append(f"  unknown, and null: {', '.join(facts.unknown)}")
    return lines


def _guess(options: Namespace) -> None:
    from pipelines.imports.guess import command, guess

    found = guess(options.guess)
    lines = [f"{found.rows} rows looked at"]
    if found.formats:
        lines.append(f"read as: {', '.join(found.formats)}")
    if found.mapping:
        lines.append(f"by a mapping: {found.usable} of {found.rows} rows")
        lines += [f"  {role} = {column}" for role, column in found.mapping.items()]
    known = bool(found.formats or found.mapping)
    lines.append(command(options.guess, found) if known else "no column looks like a completion; give --map yourself")
    show(options, "\n".join(lines), asdict(found) | {"command": command(options.guess, found) if known else None})
