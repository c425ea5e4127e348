"""What there is to say about options, read from the classes themselves: for pages, the terminal and editors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_EXAMPLE = re.compile(r"\s*Example: (.+?)\.?$")
_REMARK = re.compile(r" \(([^)]*)\)$")  # behind an example: 2.0 (TIS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One key: its type in words, its default and an example as TOML (None = there is none), and what it means."""

    name: str
    type: str
    default: str | None
    required: bool
    meaning: str
    example: str | None


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a class of options, with the docstrings under its fields."""
    return pydantic.TypeAdapter(cls).json_schema(schema_generator=_TomlSchema)


def options_of(cls: type) -> tuple[Option, ...]:
    """Every option of a class, in order."""
    schema = json_schema(cls)
    required = schema.get("required", ())
    return tuple(option(name, facts, name in required) for name, facts in schema["properties"].items())


def function_options(function: Callable[..., Any]) -> tuple[Option, ...]:
    """The keyword-only parameters of a function; their meanings stand in its docstring as `name: meaning`."""
    hints = inspect.get_annotations(function, eval_str=True)
    _, meanings = documented(function)
    found = []
    for parameter in _keywords(function):
        facts = pydantic.TypeAdapter(hints[parameter.name]).json_schema(schema_generator=_TomlSchema)
        facts["description"] = meanings.get(parameter.name, "")
        if parameter.default not in (parameter.empty, None):
            facts["default"] = parameter.default
        found.append(option(parameter.name, facts, parameter.default is parameter.empty))
    return tuple(found)


def documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a function's docstring says before its options, and of each option, up to "Raises" and the examples."""
    names = "|".join(parameter.name for parameter in _keywords(function))
    doc, *_ = re.split(r"\s(?:Raises|>>>)\s", " ".join((inspect.getdoc(function) or "").split()))
    text, *pairs = re.split(rf"(?:^|\s)({names}): ", doc)
    meanings = zip(pairs[::2], pairs[1::2], strict=True)
    return text, {name: meaning[:1].upper() + meaning[1:] for name, meaning in meanings}


def _keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def option(name: str, facts: Mapping[str, Any], required: bool) -> Option:
    """What the JSON Schema of one key says, in words."""
    meaning = facts.get("description", "")
    example = _EXAMPLE.search(meaning)
    return Option(
        name=name,
        type=words(facts),
        default=toml(facts["default"]) if "default" in facts else None,
        required=required,
        meaning=_EXAMPLE.sub("", meaning),
        example=_REMARK.sub(r"  # \1", example[1]) if example else None,
    )


def words(facts: Mapping[str, Any]) -> str:
    """The type of a JSON Schema in words.

    >>> words({"type": "integer", "minimum": 1}), words({"type": "array", "items": {"type": "string"}})
    ('integer >= 1', 'list of string')
    >>> words({"enum": ["a", "b", "c"]})
    '"a", "b" or "c"'
    """
    if "anyOf" in facts:
        return _either(dict.fromkeys(words(branch) for branch in facts["anyOf"]))
    if "enum" in facts or "const" in facts:
        return _either(toml(choice) for choice in facts.get("enum", [facts.get("const")]))
    if "prefixItems" in facts:
        return f"[{', '.join(words(item) for item in facts['prefixItems'])}]"
    if facts.get("type") == "array":
        return f"list of {words(facts['items'])}"
    plain = {"object": "table", "boolean": "true or false"}.get(facts.get("type", "object"), facts.get("type", "table"))
    bounds = ", ".join(f"{sign} {_number(facts[bound])}" for bound, sign in _BOUNDS.items() if bound in facts)
    return f"{plain} {bounds}".strip()


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _either(choices: Iterable[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def toml(value: Any) -> str:
    """A plain value as TOML writes it.

    >>> toml({"process": 1.0, "on": True}), toml(("a", 2)), toml(1e-06)
    ('{ process = 1.0, on = true }', '["a", 2]', '1e-06')
    """
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml(inner)}' for key, inner in value.items())} }}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml(inner) for inner in value)}]"
    return json.dumps(value, ensure_ascii=False)


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Field -> the docstring under it, of a dataclass and the dataclasses it derives from."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= dict(_docs_in_source(base))
    return docs


def _docs_in_source(cls: type) -> Iterator[tuple[str, str]]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    for statement, after in pairwise(node.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.target.id, " ".join(text.split())


class _TomlSchema(GenerateJsonSchema):
    """pydantic's schema as an editor of TOML wants it: with meanings, without titles and nulls, which TOML lacks."""

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        found = super().dataclass_schema(schema)
        cls = schema["cls"]
        docs = field_docs(cls)
        found["description"] = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
        found["properties"] = {
            name: facts | ({"description": docs[name]} if name in docs else {})
            for name, facts in found["properties"].items()
            if not name.startswith("_")
        }
        del found["title"]
        return found

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        found = super().default_schema(schema)
        if found.get("default", ...) is None:
            del found["default"]
        return found
