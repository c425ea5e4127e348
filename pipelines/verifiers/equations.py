r"""Step checker `equations`: every equation that a step states is computed. For `signals.NAME.checker`.

At each "=" the longest arithmetic expression before it and the one behind it are read, with units (`48 feet * 2/3`),
percent and what surrounds them, and must agree within the rounding of the number as written. Where a neighbour belongs
to the expression and cannot be read (a name, "half of", `2x`), the equation is not judged. Expressions are evaluated by
simpleeval, never by Python itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.verifiers.expressions import Expression, before, behind, converts, tokens

LONGEST_STEP = 50_000  # characters of a step that are read; what is longer is no arithmetic step but noise


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
    """For every equation of a text that can be read whether it holds."""
    return (holds for holds in stated(step) if holds is not None)


def stated(step: str) -> Iterator[bool | None]:
    """For every "=" between two numbers or expressions whether it holds; None where it cannot be read.

    >>> list(stated("so 16 - 3 = 13, 2x = 4, half of 8 = 4"))
    [True, None, None]
    """
    row = tokens(step[:LONGEST_STEP])
    for at, token in enumerate(row):
        if token.kind == "=":
            left, right = before(row, at), behind(row, at)
            if left is None or right is None:
                yield None
            elif left.computed or right.computed:
                yield _agree(left, right)


def _agree(left: Expression, right: Expression) -> bool | None:
    """Whether two sides have the same value, within the rounding of one that is a number as written."""
    pairs = [(one, other, max(a, b)) for one, a in left.values() for other, b in right.values()]
    if not pairs:
        return None
    cut = left.divided or right.divided
    if any(_close(one, other, place) or (cut and _cut(one, other, place)) for one, other, place in pairs):
        return True
    may_convert = any(other and converts(left, right, one / other) for one, other, _ in pairs)
    return None if may_convert or left.ambiguous or right.ambiguous else False


def _close(one: float, other: float, place: float) -> bool:
    """place: the unit in the last place of the number as written."""
    return abs(one - other) <= 0.5 * place + 1e-9 * max(abs(one), abs(other))


def _cut(one: float, other: float, place: float) -> bool:
    """Whether one is the other without what follows the last place: 50/3 = 16, 2/3 = 0.66."""
    near, far = sorted((abs(one), abs(other)))
    return (
        place > 0
        and one * other >= 0
        and far - near < place * (1 - 1e-9)
        and abs(near / place - round(near / place)) < 1e-6
    )
