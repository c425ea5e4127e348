"""The configuration that `passrl init` writes: what must be chosen, every other key as a comment with its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.cli.reference import Section, chosen
from pipelines.options.describe import Option, toml

WIDTH = 110
UNUSED: dict[str, Any] = {}  # a table that is a comment as a whole
#: what is set: GSM8K-like prompts, and signals that need no reward model
CHOSEN: dict[str, dict[str, Any]] = {
    "run": {},
    "prompts": {"source": "prompts.jsonl"},
    "policy": {"model": "path/to/model"},
    "engine": {},
    "generate": {},
    "generate.sampling": {},
    "signals.outcome": {"signal": "outcome", "verifier": "number"},
    "signals.steps": {
        "signal": "execution",
        "checker": "pipelines.verifiers.equations:check_steps",
        "separator": "\n",
    },
    "shape": {"process": "steps", "outcome": "outcome"},
    "shape.weights": {"format": 0.0},
    "train": {},
    "eval": UNUSED,
    "runner": {},
    "operations": {},
}
HEAD = """\
#:schema ./passrl.schema.json
# The line above lets an editor complete and check this file: passrl schema > passrl.schema.json
# A key behind # has the value it shows, or is not set and shows an example. All signals: passrl options signals
"""


def starter() -> str:
    """The text of the file; it loads unchanged."""
    return "\n".join([HEAD, *(line for name, values in CHOSEN.items() for line in _table(name, values))])


def _table(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    section = _section(name, values)
    yield from _comment(section.text)
    yield f"{'' if values is not UNUSED else '#'}[{name}]"
    if "signal" in values:
        yield f"signal = {toml(values['signal'])}"
    for option in section.options:
        if f"{name}.{option.name}" not in CHOSEN:
            yield from _key(option, values)
    yield ""
    if values is UNUSED:
        yield from (f"#[{name}.benchmarks.NAME]", '#source = "held-out.jsonl"', "")


def _section(name: str, values: Mapping[str, Any]) -> Section:
    return chosen(f"signals.{values['signal']}" if "signal" in values else name)[0]


def _key(option: Option, values: Mapping[str, Any]) -> Iterator[str]:
    value = toml(values[option.name]) if option.name in values else option.default or option.example
    if value is not None:  # else a table of its own
        yield from _comment(option.meaning)
        yield f"{'' if option.name in values else '#'}{option.name} = {value}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
