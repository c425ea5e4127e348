r"""Verifier `math`: mathematical answers by value, through the library math-verify (extra `verifiers`).

The library parses and compares single expressions. What surrounds that is the project's: which expression of a text is
the answer (`answers`, `math_places`), in which LaTeX it is given to the parser (`math_text`), and what the library
calls equal too easily (`math_equal`). The library's own time limits use signals, which fail off the main thread: they
are off, the pool's limit holds.
"""

from __future__ import annotations

from contextlib import suppress

from pass_ops.support.extras import require
from pipelines.verifiers.answers import Reasoning, answer_text, last_box
from pipelines.verifiers.base import Verdict, listed_strings
from pipelines.verifiers.math_places import final_expression
from pipelines.verifiers.math_text import in_base, only_text, plain, readings

# Here and not at the first call, whose time limit is for the verdict. Without the extra the options are still listed.
with suppress(ImportError):
    import pipelines.verifiers.math_equal

#: characters beyond which an answer is compared as text: no answer is as long, and sympy would take for ever
LONGEST_ANSWER = 1000


def verify(text: str, answer: str, *, precision: int = 6, reasoning: Reasoning = "skip") -> Verdict:
    r"""Correct where the text's answer, its last `\boxed{}`, else its last formula or number, equals `answer`.

    answer: LaTeX or plain, with or without `$`; a JSON list of strings (what a list in a source becomes) is all of them
    together; of a text with a `\boxed{}`, such as a worked solution, the last box counts. precision: decimals to which
    floats are compared; where these are all zero, digits less 2. reasoning: what is read; skip: what follows the
    reasoning, required: the same, and nothing where the reasoning has no end, keep: the whole text. Raises ValueError
    for an empty reference.

    >>> verify("So it is $\\boxed{\\frac{1}{2}}$", "0.5").correct
    True
    """
    expected = readings(reference(answer)[:LONGEST_ANSWER])
    if not expected[0]:
        raise ValueError(f"the reference answer {answer[:80]!r} cannot be read as mathematics: it is empty")
    text = answer_text(text, reasoning)
    box = last_box(text)
    given = final_expression(text) if box is None else box
    if not given or not given.strip():
        return Verdict(correct=False, unparseable=True)
    if len(given) > LONGEST_ANSWER:
        return Verdict(correct=False, extracted=given[:LONGEST_ANSWER])
    found = readings(given)
    correct = any(_same(one, other, precision=precision) for one in expected for other in found)
    return Verdict(correct=correct, extracted=found[0])


def reference(answer: str) -> str:
    r"""The expression of a reference answer.

    >>> reference("$(-\\infty, 0)$."), reference('["1", "$2$"]'), reference("2 + 3 = \\boxed{5}")
    ('$(-\\infty, 0)$', '1, $2$', '5')
    """
    if (box := last_box(answer)) is not None:
        return box
    if "####" in answer:
        return answer.rpartition("####")[2].strip()
    return ", ".join(part.strip().rstrip(".") for part in listed_strings(answer) or [answer])


def _same(expected: str, found: str, *, precision: int) -> bool:
    """Whether two tidied answers are the same as text, else by value."""
    if plain(expected) == plain(found):
        return bool(plain(found))
    if only_text(expected) or only_text(found):
        return False
    values = in_base(expected), in_base(found)
    if None not in values:
        return values[0] == values[1]
    require("math_verify", "the verifier `math`")
    library = pipelines.verifiers.math_equal
    known, given = library.parsed(expected), library.parsed(found)
    return known is not None and given is not None and library.same(known, given, precision=precision)
