"""The arguments of the commands about stored datasets as files: looked at, verified, cleaned, exported."""

from __future__ import annotations

from pipelines.cli.argument_types import share
from pipelines.cli.arguments.common import Commands, command, set_argument, tokenizer_argument
from pipelines.cli.imports import add_arguments as add_import
from pipelines.cli.rescore import add_arguments as add_rescore

EXPORTS = ("huggingface", "trl", "verl", "prime-rl", "rllm", "slime", "tinker", "safetensors", "openai-batch")


def add_stores(commands: Commands) -> None:
    """Everything about stored datasets except what they are worth."""
    add_import(
        command(
            commands, "import", "other people's rollouts as a run: shape, sweep and lint them", does="imports:import_"
        )
    )
    add_rescore(
        command(commands, "rescore", "ids and log-probabilities for rollouts that lack them", does="rescore:rescore")
    )
    inspect = command(
        commands,
        "inspect",
        "look at stored rollouts: a group, its chunks; of a RUN: its trainings",
        does="questions:inspect",
    )
    inspect.add_argument("dataset", help="folder or URL of a dataset; or a RUN or train folder, whose steps are drawn")
    inspect.add_argument(
        "--plot", help="where the drawing of a RUN goes: .svg, .png or .pdf (default RUN/training.svg)"
    )
    inspect.add_argument("--part", type=int, default=0, help="which part (default 0)")
    inspect.add_argument("--group", help="a group_id (default: the part's first)")
    inspect.add_argument("--rollout", type=int, help="sample_index of one rollout: show it chunk by chunk")
    tokenizer_argument(inspect)
    status = command(
        commands,
        "status",
        "parts done, failed, missing; rows, tokens, rejects, rate: from the store alone",
        does="questions:status",
    )
    status.add_argument("url", help="RUN folder or dataset")
    verify = command(
        commands,
        "verify",
        "check every promise of the data contract; exit code 1 where one is broken",
        does="questions:verify",
    )
    verify.add_argument("url", help="RUN folder or dataset")
    clean = command(commands, "clean", "what killed runs left behind: temporary files that nobody uses any more")
    clean.add_argument("url", help="RUN folder; the system's folder for temporary files is looked through as well")
    clean.add_argument("--yes", action="store_true", help="remove them (default: only list them)")
    export = command(commands, "export", "write a dataset as other programs read it, one file a part")
    export.add_argument("format", choices=EXPORTS, help="docs/how-to/export.md describes them")
    export.add_argument("dataset", help="folder or URL of a shaped dataset; of prompts for openai-batch")
    export.add_argument("--out", required=True, metavar="FOLDER", help="new or empty folder, local or any fsspec URL")
    set_argument(export, "a setting of the format")
    finalize = command(commands, "finalize", "write the manifest of a dataset whose parts are all committed")
    finalize.add_argument("url", help="folder or URL of a dataset")
    finalize.add_argument(
        "--max-reject-rate", type=share, default=0.05, help="above this share of rejects: refuse (default 0.05)"
    )
