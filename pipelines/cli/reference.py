"""Every option there is, by section: for `passrl options`, `passrl schema` and docs/reference/options.md."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pass_ops.shards import signal_schema
from pass_ops.support.extras import MissingExtraError
from pass_ops.support.importing import load_object
from pass_ops.support.nearest import advice
from pipelines.inspect.lint.findings import LintOptions
from pipelines.options import ConfigError
from pipelines.options.describe import Option, documented, function_options, json_schema, options_of
from pipelines.parts.granularity import PROCESS_KINDS
from pipelines.runs.config import RunConfig
from pipelines.runs.schedule import Rule
from pipelines.signals.base import SIGNALS
from pipelines.verifiers import VERIFIERS
from trainer.option_class import mapping_of, nested_class

WIDTH = 100
#: columns that every signal writes
_ALWAYS = ("rollout_id", "status", "detail")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the configuration, or what else takes options: its name, what it is, its options.

    columns: what a signal writes beside rollout_id, status and detail.
    """

    name: str
    title: str
    text: str
    options: tuple[Option, ...]
    columns: tuple[str, ...] = ()


def sections() -> tuple[Section, ...]:
    """Every section, in the order of a configuration; then the verifiers, then lint."""
    lint = _section(LintOptions, "lint", title="passrl lint --set KEY=VALUE")
    return (*_config_sections(), *_verifier_sections(), lint)


def chosen(name: str | None) -> tuple[Section, ...]:
    """The section of a name and those below it; all without a name. Raises ConfigError for one there is not."""
    every = sections()
    found = tuple(one for one in every if name is None or one.name == name or one.name.startswith(f"{name}."))
    if not found:
        fix = advice(str(name), [one.name for one in every])
        raise ConfigError(f"there is no section {name!r}; {fix}", place=name, fix=fix)
    return found


def config_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file; each signal's table by its key `signal`."""
    schema = json_schema(RunConfig)
    branches: list[dict[str, Any]] = []
    for name, path in SIGNALS.items():
        table = json_schema(load_object(path))
        schema["$defs"] |= table.pop("$defs", {})
        table["properties"] = {"signal": {"const": name}} | table["properties"]
        table["required"] = ["signal", *table.get("required", ())]
        schema["$defs"][f"signal.{name}"] = table
        branches.append({"$ref": f"#/$defs/signal.{name}"})
    own = {"type": "object", "required": ["signal"], "properties": {"signal": {"type": "string", "pattern": ":"}}}
    own["description"] = "A signal of your own, given as module:Class, and its options."
    schema["properties"]["signals"]["additionalProperties"] = {"oneOf": [*branches, own]}
    schema["$defs"] = dict(sorted(schema["$defs"].items()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "passrl configuration", **schema}


def markdown(shown: Sequence[Section]) -> Iterator[str]:
    """The sections as lines of Markdown: a heading, a sentence and a table each."""
    for section in shown:
        yield from (f"## {section.title}", "", _escaped(section.text), "")
        if section.columns:
            yield from (f"Columns: {', '.join(section.columns)}.", "")
        if section.options:
            yield from ("| key | type | default | meaning | example |", "| --- | --- | --- | --- | --- |")
            yield from (_row(option) for option in section.options)
            yield ""


def plain(shown: Sequence[Section]) -> Iterator[str]:
    """The sections as lines for the terminal."""
    for section in shown:
        yield section.title
        yield from _indented(section.text, "  ")
        if section.columns:
            yield from _indented(f"Columns: {', '.join(section.columns)}", "  ")
        for option in section.options:
            unset = "(required)" if option.required else "" if option.type == "table" else "(not set)"
            yield from ("", f"  {option.name} {f'= {option.default}' if option.default else unset}".rstrip())
            yield from _indented(f"{option.type}. {option.meaning}", "      ")
            if option.example:
                yield from _indented(f"Example: {option.example}", "      ")
        yield ""


def _config_sections() -> Iterator[Section]:
    hints = typing.get_type_hints(RunConfig)
    shown: set[type] = {cls for hint in hints.values() if (cls := nested_class(hint))}
    for field in dataclasses.fields(RunConfig):
        if (cls := nested_class(hints[field.name])) is not None:
            yield from _tables(cls, field.name, shown)
        elif field.name == "signals":
            yield from _signal_sections(shown)
        else:
            yield _section(Rule, "schedule", title="[schedule] SECTION.OPTION = { rule = ... }")


def _tables(cls: type, name: str, shown: set[type]) -> Iterator[Section]:
    """A table and those inside it; a class that was shown before is not shown again."""
    yield _section(cls, name)
    for key, hint in typing.get_type_hints(cls).items():
        inner = nested_class(hint)
        if inner is not None and inner not in shown:
            shown.add(inner)
            named = f"{key}.NAME" if mapping_of(hint) is not None else key
            yield from _tables(inner, f"{name}.{named}", shown)


def _signal_sections(shown: set[type]) -> Iterator[Section]:
    text = (
        "One table for each signal, named as you like. Its key `signal` says which one it is, one of the following or "
        "your own as module:Class; its other keys are that signal's options."
    )
    yield Section(name="signals", title="[signals.NAME]", text=text, options=())
    for name, path in SIGNALS.items():
        cls = load_object(path)
        section = _section(cls, f"signals.{name}", title=f'[signals.NAME] signal = "{name}"')
        yield dataclasses.replace(section, columns=tuple(_columns(cls.kind)))
        for key, hint in typing.get_type_hints(cls).items():
            inner = nested_class(hint)
            if inner is not None and inner not in shown:
                shown.add(inner)
                title = f'[signals.NAME.{key}] of signal = "{name}"'
                yield _section(inner, f"signals.{name}.{key}", title=title)


def _columns(kind: str | property) -> Iterator[str]:
    """What a signal of this kind writes; a property = per step or per token, as its option `per` says."""
    names = signal_schema(kind if isinstance(kind, str) else PROCESS_KINDS["step"]).names
    always = names if isinstance(kind, str) else signal_schema(PROCESS_KINDS["token"]).names
    for name in names:
        if name not in _ALWAYS:
            yield name if name in always else f"{name} (per step)"


def _verifier_sections() -> Iterator[Section]:
    for name, path in VERIFIERS.items():
        title = f'verifier_options for verifier = "{name}"'
        try:
            function = load_object(path)
        except MissingExtraError as missing:  # its module imports its library at once; the others can still be told
            yield Section(name=f"verifiers.{name}", title=title, text=str(missing), options=())
            continue
        text, _ = documented(function)
        yield Section(name=f"verifiers.{name}", title=title, text=text, options=function_options(function))


def _section(cls: type, name: str, *, title: str | None = None) -> Section:
    text = " ".join((inspect.getdoc(cls) or "").partition("Raises")[0].split())
    return Section(name=name, title=title or f"[{name}]", text=text, options=options_of(cls))


def _row(option: Option) -> str:
    default = "required" if option.required else _code(option.default)
    cells = (_code(option.name), option.type, default, option.meaning, _code(option.example))
    return f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _escaped(text: str) -> str:
    """Text that Markdown would take for a tag; in code it stays as it is."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _indented(text: str, margin: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)
