"""The launcher of the Flex template: one stage of one round, submitted and not waited for.

A template's parameters arrive as --NAME=VALUE. Those of template.json are passrl's; the others are Dataflow's and
Beam's and are handed on, but for --runner and --job_name, which passrl sets itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.cli.parser import main

PARAMETERS = ("stage", "config", "out", "round", "settings")
SET_BY_PASSRL = ("runner", "job_name")


def command_line(arguments: Sequence[str]) -> list[str]:
    """The passrl command of a template's parameters.

    >>> command_line(["--stage=generate", "--config=c.toml", "--out=gs://b/run", "--settings=run.seed=1;shape.k=0"])
    ['generate', 'c.toml', '--out', 'gs://b/run', '--runner', 'dataflow', '--set', 'runner.wait=false', \
'--set', 'run.seed=1', '--set', 'shape.k=0', '--']
    """
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    own = {name: given.pop(name, "") for name in PARAMETERS}
    command = [own["stage"], own["config"], "--out", own["out"], "--runner", "dataflow", "--set", "runner.wait=false"]
    for setting in filter(None, own["settings"].split(";")):
        command += ["--set", setting]
    if own["round"]:
        command += ["--round", own["round"]]
    return [*command, "--", *(f"--{name}={value}" for name, value in given.items() if name not in SET_BY_PASSRL)]


if __name__ == "__main__":
    sys.exit(main(command_line(sys.argv[1:])))
