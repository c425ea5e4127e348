"""The arguments of the commands about an installation: what may be configured, the demo, a machine's checks."""

from __future__ import annotations

from pipelines.cli.arguments.common import Commands, command, set_argument


def add_options(commands: Commands) -> None:
    """What may be configured."""
    init = command(commands, "init", "write a commented configuration to start from")
    init.add_argument("file", nargs="?", default="passrl.toml", help="a new file (default passrl.toml)")
    options = command(commands, "options", "every option with its type, default and meaning")
    options.add_argument("section", nargs="?", help="only this one: engine, signals.judge, verifiers.math, lint, ...")
    schema = command(commands, "schema", "the JSON Schema of a configuration, by which editors complete and check it")
    schema.add_argument("of", nargs="?", metavar="command", help="of what this command prints under --json instead")


def add_demo(commands: Commands) -> None:
    """The demo."""
    demo = command(
        commands, "demo", "watch PASS learn: a tiny policy, real vLLM rollouts, four rounds, on two CPU cores"
    )
    demo.add_argument("--out", default="runs/demo", help="run folder (default runs/demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of prompts, rollouts and batches (default 0)")
    set_argument(demo, "as for run")
    demo.add_argument("--overwrite", action="store_true", help="begin again in a folder that holds another run")


def add_gpu_check(commands: Commands) -> None:
    """The checks of a machine with GPUs."""
    check = command(
        commands,
        "gpu-check",
        "whether this machine's GPUs do what they should: results, speed, memory; exit code 1 where a check fails",
        does="commands:gpu_check",
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
