"""Step checker `equations`: every equation that a step states is computed. For `signals.NAME.checker`.

A stated equation is an arithmetic expression, "=" and a number: `48 / 2 = 24`, `$1.50 x 4 = $6`. It is right where
both sides agree within the rounding of the number as written. Expressions are evaluated by simpleeval, never by
Python itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from simpleeval import InvalidExpression, SimpleEval

_NUMBER = r"\$?\d[\d,]*(?:\.\d+)?"
_EQUATION = re.compile(rf"(?P<left>\(*-?{_NUMBER}\)*(?:\s*[-+*/x×÷−]\s*\(*{_NUMBER}\)*)+)\s*=\s*(?P<right>-?{_NUMBER})")
_OPERATORS = str.maketrans({"x": "*", "×": "*", "÷": "/", "−": "-", "$": "", ",": ""})
LONGEST_EXPRESSION = 200  # characters; beyond it an equation is no arithmetic step but noise


def check_steps(
    prompt: str, steps: Sequence[str], *, right: float = 1.0, wrong: float = 0.0, silent: float = 0.5
) -> list[float]:
    """One score a step: `right` where all its equations hold, `wrong` where one does not, `silent` without any.

    >>> check_steps("", ["48/2 = 24 clips", "2 x 3 = 7, so", "Let me think.", "10 / 3 = 3.33"])
    [1.0, 0.0, 0.5, 1.0]
    """
    del prompt  # the checker's interface; equations stand for themselves
    verdicts = (list(equations(step)) for step in steps)
    return [silent if not holds else right if all(holds) else wrong for holds in verdicts]


def equations(step: str) -> Iterator[bool]:
    """For every equation of a text whether it holds."""
    for match in _EQUATION.finditer(step):
        stated = Decimal(match["right"].translate(_OPERATORS))
        value = _value(match["left"].translate(_OPERATORS))
        if value is not None:
            unit_in_last_place = 10.0 ** int(stated.as_tuple().exponent)
            yield abs(value - float(stated)) <= 0.5 * unit_in_last_place + 1e-9 * abs(value)


def _value(expression: str) -> float | None:
    """The expression's value; None where it is none (unbalanced brackets, a division by zero)."""
    if len(expression) > LONGEST_EXPRESSION:
        return None
    try:
        return float(SimpleEval(functions={}, names={}).eval(expression))
    except (InvalidExpression, SyntaxError, ZeroDivisionError, OverflowError):
        return None
