"""Which command makes a part of a dataset again, by where the dataset lies in its RUN folder."""

from __future__ import annotations

import re
import shlex

from pass_ops.shards.spec import DatasetSpec

_IN_A_ROUND = re.compile(r"(?P<run>.+)/round-(?P<round>\d+)/(?P<name>.+)")
_IN_THE_START = re.compile(r"(?P<run>.+)/start/eval/.+")


def command_for(url: str, spec: DatasetSpec) -> str:
    """The command, in backticks; "the command that made it" for a dataset that lies in no RUN folder.

    >>> spec = DatasetSpec(stage="score", stage_version=1, options={}, parts=1)
    >>> command_for("runs/a/round-002/signals/outcome", spec)
    '`passrl score CONFIG --out runs/a --round 2 --signal outcome`'
    """
    url = url.rstrip("/")
    if start := _IN_THE_START.fullmatch(url):
        return f"`passrl eval CONFIG --out {shlex.quote(start['run'])}`"
    found = _IN_A_ROUND.fullmatch(url)
    if found is None:
        return "the command that made it"
    if "rescored" in spec.carried:
        return f"`passrl rescore RUN --out {shlex.quote(found['run'])}`"
    if "import" in spec.options:
        return f"`passrl import {spec.options['import']} SOURCE --out {shlex.quote(found['run'])}`"
    name, stage, more = found["name"], spec.stage, ""
    command = {"prompts": "generate"}.get(stage, stage)
    if name.startswith("eval/"):
        command = "eval"
    elif stage == "score":
        more = f" --signal {shlex.quote(name.removeprefix('signals/'))}"
    elif stage == "shape" and name != "shaped":
        more = f" --name {shlex.quote(name)}"
    return f"`passrl {command} CONFIG --out {shlex.quote(found['run'])} --round {int(found['round'])}{more}`"
