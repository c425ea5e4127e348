"""The arguments of the commands that make datasets and policies: rounds, their stages, and the cold start."""

from __future__ import annotations

from pipelines.cli.argument_types import round_count, round_number
from pipelines.cli.arguments.common import (
    Commands,
    command,
    config_arguments,
    name_argument,
    round_argument,
    set_argument,
)


def add_runs(commands: Commands) -> None:
    """Whole rounds."""
    run = command(commands, "run", "one round: prompts, rollouts, signals, shaped advantages, update, evaluation")
    config_arguments(run)
    run.add_argument("--round", type=round_number, default=0, help="which round (default 0)")
    rounds = command(commands, "rounds", "several rounds, each starting from the policy of the one before")
    config_arguments(rounds)
    rounds.add_argument("--rounds", type=round_count, help="how many (default: run.rounds of the configuration)")


def add_stages(commands: Commands) -> None:
    """The stages of a round, one by one."""
    for name, text in (
        ("generate", "the stages prompts and rollouts of one round"),
        ("score", "signals beside stored rollouts"),
        ("shape", "PASS over stored rollouts and signals: shaped advantages"),
        ("train", "update the policy from shaped shards"),
        ("eval", "pass@k and maj@k of a policy on held-out prompts"),
    ):
        stage = command(commands, name, text)
        config_arguments(stage)
        if name != "eval":
            round_argument(stage)
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
            name_argument(stage, default="shaped", text="the dataset's folder in the round (default shaped)")
        if name == "eval":
            whose = stage.add_mutually_exclusive_group()
            whose.add_argument(
                "--round", type=round_number, help="the policy that this round made (default: the configured policy)"
            )
            whose.add_argument("--policy", help="any model folder instead")
            stage.add_argument(
                "--beside",
                action="append",
                default=[],
                metavar="FOLDER",
                help="an evaluation of another run (its round-000/eval) as a further row of RUN/evaluations.md; may be "
                "given several times",
            )


def add_sft(commands: Commands) -> None:
    """The training beside any run."""
    sft = command(commands, "sft", "supervised training on prompts and completions: a cold start before round 0")
    sft.add_argument("pairs", nargs="+", help="Parquet files with the columns prompt (text or messages) and completion")
    sft.add_argument("--policy", required=True, metavar="FOLDER", help="the model to start from")
    sft.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder of the training; the model is in its policy/"
    )
    set_argument(sft, "an option of [train]")
