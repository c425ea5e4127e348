r"""Verifier `number`: the final number of a completion against the reference's, as GSM8K is scored.

After the reasoning, and in the last `<answer>` where there is one, the number that counts is the first after the last
`####`, else the one in the last `\boxed{}`, else the last of the text. Completion and reference are read by the same
rule, and numbers are compared by value: 1,234 is 1234, $72.00 is 72, 1.5e3 is 1500, 3/4 is 0.75. Stdlib only.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from pipelines.verifiers.answers import Reasoning, answer_text, last_box, plain_typography
from pipelines.verifiers.base import Verdict
from pipelines.verifiers.math_text import SUPERSCRIPTS, VULGAR

Number = Decimal | Fraction
#: characters in which the number is looked for: behind the marker, in the box, or at the end of the last line with one
LONGEST = 20_000

# Separators of thousands only where digits stand in threes (or as in India, 12,34,567), so that "3, 4" and "1,2" are
# two numbers each. "1.234,5" and "1.234.567" can only be German; "1.234" alone is read as English. Every count of
# groups has a limit: without one a megabyte of "1.111.111" would be scanned again from each of its numbers.
_GERMAN = r"(?<![\d.,])\d{1,3}(?:\.\d{3}){1,40},\d{1,40}(?!\.?\d)|(?<![\d.,])\d{1,3}(?:\.\d{3}){2,40}(?!\d)"
_GROUPS = "|".join(r"\d{1,3}(?:COMMA\d{3}){1,40}(?!\d)".replace("COMMA", comma) for comma in ", '_")
_ENGLISH = rf"(?:(?:{_GROUPS}|\d{{1,2}}(?:,\d{{2}}){{1,40}},\d{{3}}(?!\d)|\d++)(?:\.\d++)?|\.\d++)"
# A sign counts unless a letter, a digit or a closing bracket stands before it: "7-3" ends with 3, "= -3" with -3.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w).}\]])[-+])?\$?"
    rf"(?:(?:(?P<whole>\d{{1,40}}) {{1,2}})?(?<!/)(?P<above>{_ENGLISH})"
    r" ?/ ?\$?(?P<below>\d{1,40}(?:\.\d{1,40})?)(?![\d/])"
    rf"|(?P<german>{_GERMAN})|(?P<english>{_ENGLISH})(?:[eE](?P<power>[-+]?\d{{1,4}})(?!\w))?)"
)
_REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\?[$€£¥₹]", "$"),
        (f"[{''.join(VULGAR)}]", lambda found: "\\frac{{{}}}{{{}}}".format(*VULGAR[found[0]])),
        (r"(?<=\d)(?=\\[dtc]?frac)", " "),
        (r"\\[dtc]?frac ?\{ ?(-?\d{1,40}) ?\} ?\{ ?(\d{1,40}) ?\}|\\[dtc]?frac ?(\d) ?(\d)", r"\1\3/\2\4"),
        (r"(?<=\d)(?:\\[,;:! ]|,\\!|\{,\}|~)(?=\d{3}(?!\d))", ""),
        (r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9}", lambda found: "^" + found[0].translate(SUPERSCRIPTS)),
        (r"(?<=\d) ?(?:[xX×*·]|\\times|\\cdot) ?10 ?(?:\^|\*\*) ?[{(]?([-+]?\d{1,4})[)}]?", r"e\1"),
        (r"(?<![\w.,])10 ?(?:\^|\*\*) ?[{(]?([-+]?\d{1,4})[)}]?", r"1e\1"),
    )
)
#: of these signs every pattern of _REWRITTEN needs one
_TO_REWRITE = re.compile(rf"[\\$€£¥₹~{{xX×*·^⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹{''.join(VULGAR)}]")
_APART = re.compile(r"(?<![^\s{(])([-+]) +(?=\$?[\d.])")
#: what makes the number before it a part of an expression: 2\sqrt{3} is not 2
_FACTOR = re.compile(
    r"\s*(?:\\(?:sqrt|pi|times|cdot|frac)|\*(?!\*)|[+/(√π!]|-\s?\d|\^(?!\s?\{?\s?\\circ)|[a-cknx-z](?![a-zA-Z]))"
)


def final_number(text: str, *, marker: str = "####", reasoning: Reasoning = "skip") -> Number | None:
    r"""The number that answers: the first after the last marker, else the box's, else the last; None for none.

    A Decimal, or a Fraction where the text writes one.

    >>> final_number("She sold 48/2 = 24.\n#### 1,072"), final_number("so it is $72.00."), final_number("no idea")
    (Decimal('1072'), Decimal('72.00'), None)
    >>> final_number("\\boxed{\\frac{3}{4}}"), final_number("#### 1e-05"), final_number("it is –5")
    (Fraction(3, 4), Decimal('0.00001'), Decimal('-5'))
    """
    text = answer_text(text, reasoning)
    _, found, tail = text.rpartition(marker)
    if found:
        return _value(_NUMBER.search(_APART.sub(r"\1", rewritten(tail.lstrip()[:LONGEST]))))
    if (box := last_box(text)) is not None:
        return _boxed_number(rewritten(box.rpartition("=")[2].strip()[:LONGEST]))
    return _value(last_match(rewritten(_last_line(text))))


def verify(text: str, answer: str, *, marker: str = "####", reasoning: Reasoning = "skip") -> Verdict:
    """Correct where the final numbers of both have the same value.

    marker: text before the number that counts. reasoning: what is read; skip: what follows the reasoning, required: the
    same, and nothing where the reasoning has no end, keep: the whole text. Raises ValueError where the answer has no
    number.
    """
    expected = _expected(answer, marker)
    if expected is None:
        raise ValueError(f"the reference answer {answer[:80]!r} holds no number")
    found = final_number(text, marker=marker, reasoning=reasoning)
    if found is None:
        return Verdict(correct=False, unparseable=True)
    return Verdict(correct=same_number(found, expected), extracted=str(found))


@lru_cache(maxsize=64)
def _expected(answer: str, marker: str) -> Number | None:
    """The reference's number, which the rollouts of a group share."""
    return final_number(answer, marker=marker, reasoning="keep")


def same_number(a: Number, b: Number) -> bool:
    """Whether two numbers have the same value, exactly: 3/4 is 0.75, 1/3 is not 0.333."""
    if isinstance(a, Decimal) and isinstance(b, Decimal):
        return a == b
    return Fraction(a) == Fraction(b)


def rewritten(text: str) -> str:
    r"""The text with every number as `_NUMBER` reads it: fractions as 3/4, powers of ten as e5, one kind of dash."""
    text = plain_typography(text)
    if _TO_REWRITE.search(text) is None:
        return text
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    return text


def number_text(text: str, *, last: bool) -> str | None:
    """The last number of a text, or its first, as plain text; None where there is none."""
    text = rewritten(text)
    match = last_match(text) if last else _NUMBER.search(text)
    return None if match is None else match[0].replace("$", "").strip()


def last_match(text: str) -> re.Match[str] | None:
    """The last number of a rewritten text."""
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return last


def _last_line(text: str) -> str:
    """The last line that holds a digit, which no number leaves; "" where there is none."""
    at = next((at for at in range(len(text) - 1, -1, -1) if text[at].isdecimal() or text[at] in VULGAR), None)
    if at is None:
        return ""
    return text[text.rfind("\n", 0, at) + 1 : at][-LONGEST:] + text[at:].partition("\n")[0][:LONGEST]


def _boxed_number(box: str) -> Number | None:
    """A box's number, the first: what follows may be its unit, cm^2; not where it is a factor or a term."""
    match = _NUMBER.search(_APART.sub(r"\1", box))
    return None if match is None or _FACTOR.match(match.string, match.end()) else _value(match)


def _value(match: re.Match[str] | None) -> Number | None:
    if match is None:
        return None
    negative = match["sign"] == "-"
    if match["below"]:
        below = Fraction(match["below"])
        if not below or len(match["above"]) > 80:
            return None
        value: Number = Fraction(match["whole"] or 0) + Fraction(_plain(match["above"])) / below
    elif match["german"]:
        value = Decimal(match["german"].replace(".", "").replace(",", "."))
    else:
        value = Decimal(f"{_plain(match['english'])}e{match['power'] or 0}")
    if not negative:
        return value
    return value.copy_negate() if isinstance(value, Decimal) else -value  # unary minus rounds a Decimal


def _plain(number: str) -> str:
    return re.sub("[, '_]", "", number)
