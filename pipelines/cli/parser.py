"""`passrl`: the command line. Parsing and exit codes here; what a command does is in `pipelines.cli.commands`, or
`pipelines.cli.questions` where it only asks.

Exit codes: 0 done, 1 failed midway, 2 wrong usage or input.
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
from keyword import iskeyword
from typing import NoReturn

from pass_ops.errors import PassError
from pass_ops.support.extras import missing_extra
from pass_ops.support.secrecy import hidden, url_secret
from pipelines.cli import imports, rescore
from pipelines.cli.argument_types import (
    folder_name,
    gpus,
    plain_numbers,
    round_count,
    round_number,
    share,
    whole_numbers,
)
from pipelines.runs.terminal import Guarded, GuardedFormatter, show_traceback
from trainer import is_main_process

DONE, FAILED, WRONG_INPUT = 0, 1, 2
UNDER_TORCHRUN = ("train", "sft")
PLACES = {
    *("config", "dataset", "file", "labels", "model", "out", "pairs", "plot", "policy", "run", "save_scores", "scores"),
    *("guess", "source", "tokenizer", "url"),
}
OWN_MODULES = {"import": "imports", "rescore": "rescore"}
EXPORTS = ("huggingface", "trl", "prime-rl", "rllm", "safetensors", "openai-batch")
QUESTIONS = ("inspect", "status", "verify", "sweep", "explain", "lint", "prm-check")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments, beam_args = _split(list(sys.argv[1:] if argv is None else argv))
    sys.excepthook = show_traceback
    out = sys.stdout if is_main_process() else io.StringIO()
    with redirect_stdout(Guarded(out)), redirect_stderr(Guarded(sys.stderr)):
        options = build_parser().parse_args(arguments)
        options.beam_args = beam_args
        handler = logging.StreamHandler(getattr(sys.stderr, "unguarded", sys.stderr))
        handler.setFormatter(GuardedFormatter("%(message)s"))
        logging.basicConfig(handlers=[handler])
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars, which would run into ours
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    """One command that is parsed; returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and options.command not in UNDER_TORCHRUN:
        print(f"passrl {options.command}: runs once, not on several ranks; start it without torchrun", file=sys.stderr)
        return WRONG_INPUT
    module = "questions" if options.command in QUESTIONS else OWN_MODULES.get(options.command, "commands")
    name = options.command.replace("-", "_")
    command = getattr(importlib.import_module(f"pipelines.cli.{module}"), f"{name}_" if iskeyword(name) else name)
    try:
        _check_urls(options)
        code = command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (PassError, ImportError) as raised:
        error = missing_extra(raised, f"passrl {options.command}") or raised
        if not isinstance(error, PassError):
            raise
        print(f"passrl {options.command}: {hidden(str(error))}", file=sys.stderr)
        if type(error).__name__ == "JobSubmitted":  # by name: a light command need not import the runners
            return DONE
        return WRONG_INPUT if isinstance(error, (ValueError, LookupError, FileNotFoundError, ImportError)) else FAILED
    except KeyboardInterrupt:
        print(
            f"passrl {options.command}: interrupted; what is committed stays, the same command goes on from there",
            file=sys.stderr,
        )
        return FAILED
    return DONE if code is None else int(code)


def _check_urls(options: argparse.Namespace) -> None:
    """No path or URL on the command line may hold a secret: it would be stored and printed. Raises SecretUrlError."""
    for name in sorted(PLACES & vars(options).keys()):
        value = getattr(options, name)
        for url in value if isinstance(value, list) else [value or ""]:
            if (found := url_secret(url)) is not None:
                raise SecretUrlError(f"{name}: holds {found}; leave it out: the store's own environment gives it")


class SecretUrlError(PassError, ValueError):
    """A URL on the command line holds a secret."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Usage and message, without a secret that stands in an argument."""
        super().error(hidden(message))


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
        epilog="Unknown flags after -- go to the Beam runner. Exit codes: 0 done, 1 failed, 2 wrong usage or input.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version, and what holds a model's programs"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run_commands(commands)
    _add_option_commands(commands)
    _add_stage_commands(commands)
    _add_sft(commands)
    imports.add_arguments(_command(commands, "import", "other people's rollouts as a run: shape, sweep and lint them"))
    rescore.add_arguments(_command(commands, "rescore", "ids and log-probabilities for rollouts that lack them"))
    _add_store_commands(commands)
    _add_questions(commands)
    _add_prm_check(commands)
    _add_demo(commands)
    _add_gpu_check(commands)
    return parser


def _add_run_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = _command(commands, "run", "one round: prompts, rollouts, signals, shaped advantages, update, evaluation")
    _config_arguments(run)
    run.add_argument("--round", type=round_number, default=0, help="which round (default 0)")
    rounds = _command(commands, "rounds", "several rounds, each starting from the policy of the one before")
    _config_arguments(rounds)
    rounds.add_argument("--rounds", type=round_count, help="how many (default: run.rounds of the configuration)")


def _add_option_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = _command(commands, "init", "write a commented configuration to start from")
    init.add_argument("file", nargs="?", default="passrl.toml", help="a new file (default passrl.toml)")
    options = _command(commands, "options", "every option with its type, default and meaning")
    options.add_argument("section", nargs="?", help="only this one: engine, signals.judge, verifiers.math, lint, ...")
    _command(commands, "schema", "the JSON Schema of a configuration, by which editors complete and check it")


def _add_stage_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, text in (
        ("generate", "the stages prompts and rollouts of one round"),
        ("score", "signals beside stored rollouts"),
        ("shape", "PASS over stored rollouts and signals: shaped advantages"),
        ("train", "update the policy from shaped shards"),
        ("eval", "pass@1 and pass@k of a policy on held-out prompts"),
    ):
        stage = _command(commands, name, text)
        _config_arguments(stage)
        if name != "eval":
            stage.add_argument("--round", type=round_number, default=0, help="which round of the run (default 0)")
        if name == "score":
            stage.add_argument(
                "--signal", action="append", default=[], help="only this signal (may be given several times)"
            )
            stage.add_argument(
                "--reverify",
                action="store_true",
                help="write nothing: verify the stored rollouts again and print which verdicts differ from the stored",
            )
        if name == "shape":
            _name_argument(stage, default="shaped", text="the dataset's folder in the round (default shaped)")
        if name == "eval":
            stage.add_argument(
                "--round", type=round_number, help="the policy that this round made (default: the configured policy)"
            )
            stage.add_argument("--policy", help="any model folder instead")


def _add_sft(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sft = _command(commands, "sft", "supervised training on prompts and completions: a cold start before round 0")
    sft.add_argument("pairs", nargs="+", help="Parquet files with the columns prompt (text or messages) and completion")
    sft.add_argument("--policy", required=True, metavar="FOLDER", help="the model to start from")
    sft.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder of the training; the model is in its policy/"
    )
    sft.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="an option of [train]"
    )


def _add_store_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = _command(commands, "inspect", "look at stored rollouts: a group, its chunks; of a RUN: its trainings")
    inspect.add_argument("dataset", help="folder or URL of a dataset; or a RUN or train folder, whose steps are drawn")
    inspect.add_argument("--plot", help="where the drawing of a RUN goes (default RUN/training.svg)")
    inspect.add_argument("--part", type=int, default=0, help="which part (default 0)")
    inspect.add_argument("--group", help="a group_id (default: the part's first)")
    inspect.add_argument("--rollout", type=int, help="sample_index of one rollout: show it chunk by chunk")
    status = _command(
        commands, "status", "parts done, failed, missing; rows, tokens, rejects, rate: from the store alone"
    )
    status.add_argument("url", help="RUN folder or dataset")
    verify = _command(commands, "verify", "check every promise of the data contract; exit code 1 where one is broken")
    verify.add_argument("url", help="RUN folder or dataset")
    clean = _command(commands, "clean", "what killed runs left behind: temporary files that nobody uses any more")
    clean.add_argument("url", help="RUN folder; the system's folder for temporary files is looked through as well")
    clean.add_argument("--yes", action="store_true", help="remove them (default: only list them)")
    export = _command(commands, "export", "write a dataset as other programs read it, one file a part")
    export.add_argument("format", choices=EXPORTS, help="docs/how-to/export.md describes them")
    export.add_argument("dataset", help="folder or URL of a shaped dataset; of prompts for openai-batch")
    export.add_argument("--out", required=True, metavar="FOLDER", help="new or empty folder, local or any fsspec URL")
    export.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a setting of the format"
    )
    finalize = _command(commands, "finalize", "write the manifest of a dataset whose parts are all committed")
    finalize.add_argument("url", help="folder or URL of a dataset")
    finalize.add_argument(
        "--max-reject-rate", type=share, default=0.05, help="above this share of rejects: refuse (default 0.05)"
    )


def _add_questions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sweep = _command(commands, "sweep", "what other shaping options would make of the stored rollouts and signals")
    sweep.add_argument("config", help="TOML configuration; its [shape] section is the reference setting")
    sweep.add_argument("--out", required=True, metavar="RUN", help="run folder, local or any fsspec URL")
    sweep.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for run")
    sweep.add_argument("--round", type=round_number, default=0, help="which round of the run (default 0)")
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=V1,V2,...",
        help="values of an option of [shape], say k=0,0.7,1 or weights.process=0.5,1; several --grid are combined",
    )
    _name_argument(sweep, default="sweep", text="results are NAME.parquet and NAME.svg in the round's sweep folder")
    _add_choice(sweep)
    explain = _command(commands, "explain", "the arithmetic of one rollout's advantages, chunk by chunk")
    explain.add_argument("run", help="RUN folder, or a shaped dataset")
    explain.add_argument("rollout_id", help="GROUP/INDEX")
    explain.add_argument("--round", type=round_number, default=0, help="which round of the run (default 0)")
    _name_argument(explain, default="shaped", text="the shaped dataset's folder in the round (default shaped)")
    explain.add_argument("--all", action="store_true", help="every chunk, however many")
    lint = _command(commands, "lint", "look for trouble before training; exit code 1 where an error is found")
    lint.add_argument("dataset", help="folder or URL of a shaped dataset, or of rollouts or a signal")
    lint.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="THRESHOLD=VALUE", help="another threshold"
    )


def _add_choice(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument(
        "--truth",
        metavar="SIGNAL",
        help="rank the settings by how well they agree with this truer process signal, and forecast",
    )
    sweep.add_argument(
        "--truth-as",
        choices=("value", "difference"),
        help="how it becomes an advantage: less its group's mean, or less the step before (default for monte_carlo)",
    )
    sweep.add_argument("--forecast", action="store_true", help="what added steps would earn (with --truth anyway)")
    sweep.add_argument(
        "--forecast-steps", type=whole_numbers, metavar="N1,N2,...", help="how many steps are added (default 1,8)"
    )
    sweep.add_argument(
        "--forecast-scores", type=plain_numbers, metavar="X1,X2,...", help="their scores (default: quartiles stored)"
    )
    sweep.add_argument("--policy", metavar="FOLDER", help="compare real policy gradients of this policy")
    sweep.add_argument("--groups", type=int, help="groups drawn for forecast and gradients (default 32)")
    sweep.add_argument("--seed", type=int, help="seed of that draw and of the intervals (default 0)")


def _add_prm_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = _command(commands, "prm-check", "how good a process signal is, before one trains on it")
    check.add_argument("run", nargs="?", help="RUN folder whose round holds both signals; not with --labels")
    check.add_argument("--signal", help="name of the process signal to check, scored per step")
    check.add_argument("--truth", help="name of the one to hold it against: execution, monte_carlo")
    check.add_argument("--round", type=round_number, default=0, help="which round of the run (default 0)")
    check.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="truth above: right, below: wrong, at it: neutral; with --labels, scores below it are called wrong "
        "(default 0.5)",
    )
    check.add_argument("--padding", metavar="REGEX", help="matches the whole text of steps that add nothing")
    check.add_argument(
        "--tokenizer",
        help="the policy's folder, to decode steps (default: the one recorded; with --labels the PRM's own)",
    )
    check.add_argument(
        "--labels",
        metavar="FORMAT:FILE",
        help="published step labels instead of a RUN: processbench, prm800k, math_shepherd, trl or ultrainteract, and "
        "a .jsonl, .json or .parquet file",
    )
    check.add_argument("--model", metavar="PRM", help="the process reward model that scores the labelled steps")
    check.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="an option of the signal prm: tag, chat, tokens, engine.kind, ...",
    )  # fmt: skip
    check.add_argument("--scores", metavar="FILE", help="stored scores instead of a model: what --save-scores writes")
    check.add_argument("--save-scores", metavar="FILE", help="where the model's scores go, as JSON lines")
    check.add_argument(
        "--shape", action="append", default=[], metavar="KEY=VALUE",
        help="an option of [shape] for the advantages (default: the process signal alone)",
    )  # fmt: skip
    check.add_argument("--limit", type=round_count, metavar="N", help="only the first N labelled solutions")
    check.add_argument(
        "--max-reject-rate", type=share, default=0.05, help="above this share of bad rows: refuse (default 0.05)"
    )


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _command(
        commands, "demo", "watch PASS learn: a tiny policy, real vLLM rollouts, four rounds, on two CPU cores"
    )
    demo.add_argument("--out", default="runs/demo", help="run folder (default runs/demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of prompts, rollouts and batches (default 0)")
    demo.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for run")
    demo.add_argument("--overwrite", action="store_true", help="begin again in a folder that holds another run")


def _add_gpu_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = _command(
        commands,
        "gpu-check",
        "whether this machine's GPUs do what they should: results, speed, memory; exit code 1 where a check fails",
    )
    check.add_argument("--out", default="runs/gpu-check", metavar="FOLDER", help="models, logs, report; up to 60 GiB")
    check.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only these checks: driver, train, engine, reload, ..."
    )
    check.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="cpu: the same checks with tiny models, speed and memory not judged (default: cuda where there is a GPU)",
    )
    check.add_argument("--minutes", type=float, default=20.0, help="what has not begun by then is skipped (default 20)")
    check.add_argument("--report", metavar="FILE", help="the Markdown page (default: gpu.md in the folder)")
    check.add_argument("--trl", metavar="PYTHON", help="an interpreter that has TRL (default: this one, if it has)")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, nothing else")
    return parser


def _name_argument(parser: argparse.ArgumentParser, *, default: str, text: str) -> None:
    parser.add_argument("--name", type=folder_name, default=default, help=text)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="TOML configuration")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder, local or any fsspec URL")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override section.key=value"
    )
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
