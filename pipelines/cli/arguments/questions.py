"""The arguments of the commands that ask what stored rollouts, signals and advantages are worth."""

from __future__ import annotations

import argparse

from pipelines.cli import view
from pipelines.cli.argument_types import plain_numbers, round_count, share, whole_numbers
from pipelines.cli.arguments.common import (
    Commands,
    command,
    name_argument,
    round_argument,
    set_argument,
    tokenizer_argument,
)


def add_questions(commands: Commands) -> None:
    """What is stored, under other settings, explained and checked."""
    sweep = command(
        commands,
        "sweep",
        "what other shaping options would make of the stored rollouts and signals",
        does="questions:sweep",
    )
    sweep.add_argument("config", help="TOML configuration; its [shape] section is the reference setting")
    sweep.add_argument("--out", required=True, metavar="RUN", help="run folder, local or any fsspec URL")
    set_argument(sweep, "as for run")
    round_argument(sweep)
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=V1,V2,...",
        help="values of an option of [shape], say k=0,0.7,1 or weights.process=0.5,1; several --grid are combined",
    )
    name_argument(sweep, default="sweep", text="results are NAME.parquet and NAME.svg in the round's sweep folder")
    _choice(sweep)
    explain = command(
        commands, "explain", "the arithmetic of one rollout's advantages, chunk by chunk", does="questions:explain"
    )
    explain.add_argument("run", help="RUN folder, or a shaped dataset")
    explain.add_argument("rollout_id", help="GROUP/INDEX")
    round_argument(explain)
    name_argument(explain, default="shaped", text="the shaped dataset's folder in the round (default shaped)")
    explain.add_argument("--all", action="store_true", help="every chunk, however many, and its whole text")
    tokenizer_argument(explain)
    view.add_arguments(
        command(commands, "view", "one HTML file in which the credit of every token can be looked at", does="view:view")
    )
    diff = command(
        commands, "diff", "two runs side by side: options, data and results, paired over prompts", does="questions:diff"
    )
    diff.add_argument(
        "run",
        metavar="RUN_A",
        help="RUN folder, local or any fsspec URL; or the folder of one evaluation, as RUN/round-000/eval",
    )
    diff.add_argument("other", metavar="RUN_B", help="the RUN, or the evaluation, to hold against it")
    lint = command(
        commands, "lint", "look for trouble before training; exit code 1 where an error is found", does="questions:lint"
    )
    lint.add_argument("dataset", help="folder or URL of a shaped dataset, or of rollouts or a signal")
    set_argument(lint, "another threshold", metavar="THRESHOLD=VALUE")


def _choice(sweep: argparse.ArgumentParser) -> None:
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


def add_prm_check(commands: Commands) -> None:
    """How good a process signal is."""
    check = command(
        commands, "prm-check", "how good a process signal is, before one trains on it", does="questions:prm_check"
    )
    check.add_argument("run", nargs="?", help="RUN folder whose round holds both signals; not with --labels")
    check.add_argument("--signal", help="name of the process signal to check, scored per step")
    check.add_argument("--truth", help="name of the one to hold it against: execution, monte_carlo")
    round_argument(check)
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
    set_argument(check, "an option of the signal prm: tag, chat, tokens, engine.kind, ...")
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
