"""What the commands' arguments are made of: the command itself, and the arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from pipelines.cli.argument_types import folder_name, gpus, round_number

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(commands: Commands, name: str, text: str, *, does: str | None = None) -> argparse.ArgumentParser:
    """A command. does: "module:function" of `pipelines.cli` (default: the function of its name in `commands`)."""
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
    parser.set_defaults(does=does or f"commands:{name}")
    return parser


def name_argument(parser: argparse.ArgumentParser, *, default: str, text: str) -> None:
    """--name, which becomes a folder or a file."""
    parser.add_argument("--name", type=folder_name, default=default, help=text)


def round_argument(parser: argparse.ArgumentParser) -> None:
    """--round, the first by default."""
    parser.add_argument("--round", type=round_number, default=0, help="which round of the run (default 0)")


def tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """--tokenizer, to show what tokens say."""
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="the policy's folder, to show texts (default: the one recorded)"
    )


def set_argument(parser: argparse.ArgumentParser, text: str, *, metavar: str = "KEY=VALUE") -> None:
    """--set, which may be given several times."""
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar=metavar, help=text)


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes that opens a run from its configuration."""
    parser.add_argument("config", help="TOML configuration")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder, local or any fsspec URL")
    set_argument(parser, "override section.key=value")
    parser.add_argument("--overwrite", action="store_true", help="replace datasets that were made with other options")
    parser.add_argument("--runner", help="Beam runner (default: runner.name of the configuration)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print the resolved configuration and an estimate as JSON; do nothing",
    )
    parser.add_argument(
        "--gpu",
        type=gpus,
        metavar="GPUS",
        help='with --dry-run: GPUs to plan for, "80 GiB" or "8 x 80 GiB" (default: those of this machine)',
    )
    parser.add_argument(
        "--tokens-per-second",
        type=float,
        default=4000.0,
        help="sampling speed of one worker for the estimate (default 4000)",
    )
    parser.add_argument(
        "--training-tflops",
        type=float,
        default=100.0,
        help="TFLOP/s that training reaches, for the estimate (default 100)",
    )
