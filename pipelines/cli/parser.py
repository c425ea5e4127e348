"""`passrl`: the command line. Parsing here, arguments in `arguments/`; what a command does is in `commands`, or in
`questions` where it only asks; how it fails in `failures`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import NoReturn

from pass_ops.errors import PassError
from pass_ops.support.extras import missing_extra
from pass_ops.support.secrecy import url_secret
from pipelines.cli.arguments import questions, runs, setup, stores
from pipelines.cli.failures import ExitCode, RanksError, UsageError, failure, tell, tell_json
from pipelines.runs.terminal import Guarded, GuardedFormatter, show_traceback
from trainer import is_main_process

UNDER_TORCHRUN = ("train", "sft")
PLACES = {
    *("config", "dataset", "file", "labels", "model", "out", "pairs", "plot", "policy", "run", "save_scores", "scores"),
    *("datasets", "guess", "other", "source", "tokenizer", "url"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments, beam_args = _split(list(sys.argv[1:] if argv is None else argv))
    sys.excepthook = show_traceback
    out = sys.stdout if is_main_process() else io.StringIO()
    with redirect_stdout(Guarded(out)), redirect_stderr(Guarded(sys.stderr)):
        try:
            options = build_parser().parse_args(arguments)
        except UsageError as error:
            sys.stderr.write(error.usage)
            raise SystemExit(tell(error, command=error.prog, as_json="--json" in arguments)) from None
        options.beam_args = beam_args
        handler = logging.StreamHandler(getattr(sys.stderr, "unguarded", sys.stderr))
        handler.setFormatter(GuardedFormatter("%(message)s"))
        logging.basicConfig(handlers=[handler])
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars, which would run into ours
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    """One command that is parsed; returns the exit code."""
    command = f"passrl {options.command}"
    module, name = options.does.split(":")
    try:
        _check_ranks(options)
        _check_urls(options)
        code = getattr(importlib.import_module(f"pipelines.cli.{module}"), name)(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except (PassError, ImportError, KeyboardInterrupt) as raised:
        error = missing_extra(raised, command) or raised
        if isinstance(error, ImportError) and not isinstance(error, PassError):
            raise
        return tell(error, command=command, as_json=options.json)
    except Exception as error:
        if options.json:
            tell_json(failure(error))
        raise  # nobody expected it: its traceback helps
    return ExitCode.DONE if code is None else int(code)


def _check_ranks(options: argparse.Namespace) -> None:
    """Only trainings run on several ranks. Raises RanksError."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and options.command not in UNDER_TORCHRUN:
        fix = "start it without torchrun"
        raise RanksError(f"runs once, not on several ranks; {fix}", fix=fix)


def _check_urls(options: argparse.Namespace) -> None:
    """No path or URL on the command line may hold a secret: it would be stored and printed. Raises SecretUrlError."""
    for name in sorted(PLACES & vars(options).keys()):
        value = getattr(options, name)
        for url in value if isinstance(value, list) else [value or ""]:
            if (found := url_secret(url)) is not None:
                fix = "leave it out: the store's own environment gives it"
                raise SecretUrlError(f"{name}: holds {found}; {fix}", place=name, fix=fix)


class SecretUrlError(PassError, ValueError):
    """A URL on the command line holds a secret."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises UsageError, with the usage of the command that was meant."""
        raise UsageError(message, usage=self.format_usage(), prog=self.prog)


class _Version(argparse.Action):
    """Prints what is installed and what holds the programs that a model writes."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from pipelines.verifiers.sandbox import active_isolation

        parser.exit(message=f"passrl {version('passrl')}\nprograms of a model: {active_isolation()}\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as one parser."""
    parser: argparse.ArgumentParser = _Parser(
        prog="passrl",
        description="PASS: reshape any scalar step signal into per-chunk advantages, offline, in Parquet.",
        epilog="Unknown flags after -- go to the Beam runner. Exit codes: 0 done, 1 failed or something found, 2 wrong "
        "usage or input, 130 interrupted.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version, and what holds a model's programs"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        runs.add_runs,
        setup.add_options,
        runs.add_stages,
        runs.add_sft,
        stores.add_stores,
        questions.add_questions,
        questions.add_prm_check,
        setup.add_demo,
        setup.add_gpu_check,
    ):
        add(commands)
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Everything after a lone -- belongs to the Beam runner.

    >>> _split(["run", "a.toml", "--", "--direct_num_workers=2"])
    (['run', 'a.toml'], ['--direct_num_workers=2'])
    """
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
