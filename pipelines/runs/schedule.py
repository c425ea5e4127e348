"""Options that change over the rounds: `[schedule]`, read, checked and resolved for one round.

    [schedule]
    train.lr = { rule = "cosine", start = 1e-6, end = 1e-7, rounds = 20 }
    generate.sampling.temperature = { rule = "steps", values = [1.0, 0.8], at = [10] }
    shape.weights.process = [0.0, 0.5, 1.0]

Below the names of sections and options stands a list, one value per round (the last one stays), or a `Rule`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge
from pydantic import Strict

from pass_ops.errors import PassError
from pass_ops.support.nearest import advice
from pipelines.options import ConfigError, build, options
from pipelines.options.types import ZeroOrMore

T = TypeVar("T")

SECTIONS = ("run", "prompts", "generate", "shape", "train")
#: of [run], what may change; the rest is the run's own
_OF_RUN = ("prompts_per_round",)
#: what weights and optimizer state are made of, which the next round carries on
_FIXED = frozenset({"train.lora_rank", "train.lora_alpha", "train.optimizer", "train.weights_dtype"})


@options(ConfigError)
class Rule:
    """How one option goes over the rounds, the first of which is round 0."""

    rule: Literal["linear", "cosine", "steps"]
    """linear and cosine go from start to end over so many rounds and then stay; steps jumps. A whole-number option is
    rounded."""
    start: float | None = None
    """Value of round 0 (linear, cosine). Example: 1e-6."""
    end: float | None = None
    """Value of round `rounds` - 1 and of all after it (linear, cosine). Example: 1e-7."""
    rounds: Annotated[int, Ge(2)] | None = None
    """Rounds from the first value to the last, both counted (linear, cosine). Example: 20."""
    values: Annotated[tuple[Any, ...], Strict(False)] = ()
    """The values in order (steps). Example: [1.0, 0.8]."""
    at: Annotated[tuple[ZeroOrMore, ...], Strict(False)] = ()
    """The rounds in which the second value begins, the third, and so on (steps). Example: [10]."""

    def __post_init__(self) -> None:
        smooth = (self.start, self.end, self.rounds)
        if self.rule == "steps" and (not self.values or smooth != (None, None, None)):
            raise ConfigError("rule 'steps' takes values and at, and no start, end or rounds")
        if self.rule != "steps" and (None in smooth or self.values or self.at):
            raise ConfigError(f"rule {self.rule!r} takes start, end and rounds, all three, and no values or at")
        if self.rule == "steps" and (len(self.at) != len(self.values) - 1 or list(self.at) != sorted({*self.at} - {0})):
            raise ConfigError(
                f"at is {list(self.at)} for {len(self.values)} values: it must name a round for each but the first, "
                "from 1 on and rising"
            )

    def value(self, round_index: int) -> Any:
        """The value of a round (from 0). linear: start + (end - start) x with x = min(1, round / (rounds - 1));
        cosine: the same with (1 - cos(pi x)) / 2 in place of x. Exact at both ends.

        >>> rule = Rule(rule="linear", start=1.0, end=0.0, rounds=3)
        >>> [rule.value(index) for index in range(4)]
        [1.0, 0.5, 0.0, 0.0]
        """
        if self.rule == "steps":
            return self.values[sum(first <= round_index for first in self.at)]
        start, end, rounds = float(self.start or 0.0), float(self.end or 0.0), int(self.rounds or 2)
        share = min(1.0, round_index / (rounds - 1))
        if self.rule == "cosine":
            share = (1.0 - math.cos(math.pi * share)) / 2.0
        return start * (1.0 - share) + end * share


def rules(schedule: Mapping[str, Any]) -> dict[str, Rule]:
    """Option, by its dotted name -> its rule; a list becomes steps of one round. Raises ConfigError.

    >>> rules({"shape": {"k": [0.0, 0.7]}})["shape.k"].value(5)
    0.7
    """
    found = {}
    for name, given in _leaves(schedule):
        place = f"schedule.{name}"
        _check_target(name)
        if isinstance(given, list | tuple):
            if not given:
                raise ConfigError(f"{place} is an empty list: give one value or more, the first for round 0")
            found[name] = Rule(rule="steps", values=tuple(given), at=tuple(range(1, len(given))))
        else:
            found[name] = build(Rule, given, where=place)
    return found


def at_round(config: T, found: Mapping[str, Rule], round_index: int) -> T:
    """The configuration with every scheduled option at its value of one round. Raises ConfigError, naming it."""
    for name, rule in found.items():
        value = rule.value(round_index)
        try:
            config = _with(config, name.split("."), value, whole=rule.rule != "steps")
        except (PassError, TypeError) as error:
            raise ConfigError(f"schedule.{name} is {value!r} in round {round_index}: {error}") from error
    return config


def values(config: Any, found: Mapping[str, Rule]) -> dict[str, Any]:
    """Scheduled option -> its value in a configuration of one round."""
    return {name: _value(config, name) for name in found}


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each list or rule, by the dotted name it stands under."""
    for key, value in table.items():
        name = f"{above}.{key}" if above else key
        if isinstance(value, Mapping) and not isinstance(value.get("rule"), str):
            yield from _leaves(value, name)
        elif isinstance(value, Mapping | list | tuple):
            yield name, value
        else:
            raise ConfigError(
                f"schedule.{name} is {value!r}: it must be a list with a value per round, or a table with a rule; a "
                f"value for all rounds is set as {name}"
            )


def _check_target(name: str) -> None:
    section, _, option = name.partition(".")
    if section not in SECTIONS or not option:
        fix = f"only options of {', '.join(SECTIONS)} can change from round to round"
        raise ConfigError(f"schedule.{name}: {fix}; {advice(section, SECTIONS)}")
    if section == "run" and option not in _OF_RUN:
        raise ConfigError(f"schedule.{name}: of run, only {', '.join(_OF_RUN)} can change from round to round")
    if name in _FIXED:
        raise ConfigError(f"schedule.{name}: each round carries on weights and optimizer state that it is the shape of")


def _with(node: Any, path: Sequence[str], value: Any, *, whole: bool) -> Any:
    """The options with one of them replaced. whole: a number that must be whole is rounded."""
    if not path:
        is_whole = isinstance(node, int) and not isinstance(node, bool)
        return round(value) if whole and is_whole else value
    names = list(node) if isinstance(node, Mapping) else []
    if is_dataclass(node):
        names = [item.name for item in fields(node)]
    if path[0] not in names:
        raise ConfigError(f"there is no option {path[0]!r}; {advice(path[0], names)}")
    if isinstance(node, Mapping):
        return {**node, path[0]: _with(node[path[0]], path[1:], value, whole=whole)}
    return replace(node, **{path[0]: _with(getattr(node, path[0]), path[1:], value, whole=whole)})


def _value(node: Any, name: str) -> Any:
    """The option of a dotted name."""
    for key in name.split("."):
        node = node[key] if isinstance(node, Mapping) else getattr(node, key)
    return node
