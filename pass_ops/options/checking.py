"""How options are checked when they are made. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Self

from pass_ops.errors import OptionError
from pass_ops.support.nearest import advice


def set_field(instance: object, name: str, value: object) -> None:
    """Normalize a field of a frozen dataclass; only from its __post_init__."""
    object.__setattr__(instance, name, value)


def check_choice(value: Any, choices: Sequence[str], *, option: str, others: str = "") -> None:
    """Raise OptionError unless `value` is one of `choices`. others: what the message adds."""
    if not (isinstance(value, str) and value in choices):
        hint = advice(str(value), choices, listed=True)
        raise OptionError(f"option {option}: unknown value {value!r}; {hint}{others}")


def check_number(value: Any, *, option: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a float. Raises OptionError unless it is a finite number from `low` to `high`."""
    bounds = f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
    expected = f"option {option}: expected a finite number{bounds}, got {value!r}"
    if isinstance(value, (bool, str)) or value is None:
        raise OptionError(f"{expected}; give a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{expected}; give a number") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise OptionError(f"{expected}; choose a value in that range")
    return number


class Options:
    """Refuses an unknown option as it does an unknown value: with an OptionError that names the nearest known one."""

    def __new__(cls, *_args: Any, **options: Any) -> Self:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for name in options:
            if name not in known:
                raise OptionError(f"{cls.__name__}: unknown option {name!r}; {advice(name, known)}")
        return super().__new__(cls)
