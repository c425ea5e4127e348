r"""Where the answer stands in a text without a box: after "answer", else in the last formula or number. Stdlib only.

The order is math-verify's; its own expressions take cubic time on what a collapsed policy writes, these one pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.verifiers.number import number_text

_DELIMITER = re.compile(r"\\\\|\\\$|\$\$|\$|\\[()\[\]]")
_CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_ANSWER = re.compile(r"answers?\b", re.IGNORECASE)
_JOINT = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*")
_LEAD = re.compile(r"(?:[\s:=*_]|is\b|are\b|be\b|equals\b|the\b)*")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
_CLAUSE = re.compile(r",\s+(?!and\b|or\b)(?=[a-z]{2})")
_NOT_EQUALS = re.compile(r"(?<![<>!=\\])=(?!=)")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.")
_PROSE = re.compile(r"[^\W\d_]{2,}")
_FUNCTIONS = frozenset({
    "sqrt", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp",
    "infinity", "inf", "percent", "and", "or",
})  # fmt: skip
_ANCHORS = 3  # how many of the last "answer" are tried
_REACH = 50  # characters from "answer" to a formula, as in math-verify
LONGEST = 200


@dataclass(frozen=True)
class _Formula:
    start: int
    end: int
    content: str


def final_expression(text: str) -> str | None:
    r"""What a text without a box answers, as LaTeX or plain text; None where it holds neither formula nor number.

    >>> final_expression("so $x = 5$."), final_expression("The sum is 489. It is **73**."), final_expression("hm")
    ('x = 5', '73', None)
    """
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0] or None
    if len(text) <= LONGEST and _is_mathematics(text):
        return text.strip()
    formulas = _formulas(text)
    for anchor in reversed(list(_ANSWER.finditer(text))[-_ANCHORS:]):
        if (found := _after_anchor(text, anchor.end(), formulas)) is not None:
            return found
    return _last(text, formulas)


def _formulas(text: str) -> list[_Formula]:
    r"""Every `$..$`, `$$..$$`, `\(..\)` and `\[..\]`, in order; one that is not closed is none."""
    found, opened, start = [], "", 0
    for sign in _DELIMITER.finditer(text):
        if opened and sign[0] == _CLOSING[opened]:
            found.append(_Formula(start, sign.end(), text[start + len(opened) : sign.start()]))
            opened = ""
        elif sign[0] in _CLOSING and (not opened or "$" not in sign[0]):
            opened, start = sign[0], sign.start()
    return found


def _after_anchor(text: str, at: int, formulas: list[_Formula]) -> str | None:
    inside = next((one for one in formulas if one.start < at <= one.end), None)
    if inside is None:
        index = next((index for index, one in enumerate(formulas) if one.start >= at), None)
        if index is not None and formulas[index].start - at <= _REACH and "\n\n" not in text[at:][:_REACH].strip():
            return _joined(text, formulas, index)
    rest = text[at : at + LONGEST]
    rest = rest[_LEAD.match(rest).end() :]  # type: ignore[union-attr]  # it matches the empty string
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start() if end else None].strip(" *_")
    if inside is not None:
        sentence = sentence.partition("\\]")[0].partition("$")[0].partition("\\)")[0]
    clause = _CLAUSE.split(sentence, maxsplit=1)[0]
    return _value(clause if any(sign.isdigit() for sign in clause) else sentence)


def _joined(text: str, formulas: list[_Formula], index: int) -> str:
    """A formula, and those that follow it after a comma, "and" or "or"."""
    parts = [formulas[index]]
    for following in formulas[index + 1 : index + 6]:
        if not _JOINT.fullmatch(text, parts[-1].end, following.start):
            break
        parts.append(following)
    return ", ".join(part.content.strip() for part in parts)


def _last(text: str, formulas: list[_Formula]) -> str | None:
    """The last formula, or the last number where that stands behind it."""
    formulas = [one for one in formulas if any(sign.isalnum() for sign in one.content)]
    behind = text[formulas[-1].end :] if formulas else text
    if any(sign.isdigit() for sign in behind):
        last_line = next(line for line in reversed(behind.splitlines()) if any(sign.isdigit() for sign in line))
        return _value(last_line[-LONGEST:].strip(" *_."), last=True)
    if not formulas:
        return None
    first = len(formulas) - 1
    while first and _JOINT.fullmatch(text, formulas[first - 1].end, formulas[first].start):
        first -= 1
    return _joined(text, formulas, max(first, len(formulas) - 6))


def _value(sentence: str, *, last: bool = False) -> str | None:
    """The sentence where it is mathematics or has no number, else its number (the last, or the one behind "=")."""
    if not sentence:
        return None
    if _is_mathematics(sentence) or not any(sign.isdigit() for sign in sentence):
        return None if last and not _is_mathematics(sentence) else sentence
    *_, behind = _NOT_EQUALS.split(sentence)
    if _is_mathematics(behind):
        return behind.strip()
    return number_text(behind if any(sign.isdigit() for sign in behind) else sentence, last=last)


def _is_mathematics(text: str) -> bool:
    """Whether a text has digits, or a command, and no words."""
    bare = _COMMAND.sub(" ", text)
    if not (bare != text or any(sign.isdigit() for sign in text)) or "\n" in text.strip():
        return False
    return all(word.lower() in _FUNCTIONS for word in _PROSE.findall(bare))
