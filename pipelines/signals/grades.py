r"""The grade that a judge's reply gives, in the forms that chat models write it, or none where that is not clear.

    "Score: 8", "**Score:** 8/10.", "Rating: [[8]]", "Grade - 8", "Score (0-10): 8", '{"score": 8}', "<score>8</score>",
    "The score is 8 out of 10."; without such a label "8/10", "8 out of 10", "[[8]]", "\boxed{8}", or a number alone.

A labelled grade outranks others. Of several that differ, the one with which the reply ends counts, if it is the only
one on its line; else there is none, as for a range ("7-8", "7 or 8"), another scale ("80%", "4/5"), a figure with a
comma, or text inside <think> that never ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Every repetition has a bound, so that the time is linear in whatever a judge writes.
_MARKS = r"[\s*_`~\#|\"'“”‘’]{0,12}"  # Markdown and quotes
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_LABEL = re.compile(
    rf"""(?<!\w)(?P<before>(?:[a-z]{{1,20}}[ ])?)(?:score|rating|grade)
    (?P<of>(?:[ ](?:for|of|on|to)[ ](?:this|the|that)(?:[ ]\w{{1,20}}){{1,3}})?)
    {_MARKS}(?:\([^()\n]{{0,40}}\))?{_MARKS}
    (?:[:：=>→–—]|->|[ ]-(?=[ ])|[ ]is\b[ ]?:?|[ ]of\b)
    [\s*_`~\"'“”‘’(\[{{<$]{{0,12}}(?:\\boxed\{{)?
    (?P<number>[-−+]?{_NUMBER})""",
    re.IGNORECASE | re.VERBOSE,
)
_SHARE = re.compile(
    rf"(?<![\w.,/^+\-−–=(])(?<!\w\*)(?P<number>{_NUMBER})(?=\s{{0,3}}(?:/|out of)\s{{0,3}}\d)", re.IGNORECASE
)
_ENCLOSED = re.compile(rf"(?:\[\[|\\boxed\s?\{{)\s{{0,3}}(?P<number>[-−]?{_NUMBER})(?=\s{{0,3}}(?:\]\]|\}}|/|\Z))")
_SCALE = re.compile(rf"{_MARKS}(?:/|out of|of){_MARKS}(?P<most>{_NUMBER})", re.IGNORECASE)
# What may not follow: the number goes on, begins a range, or has another unit.
_GOES_ON = re.compile(
    r"[\w^+/\\]|[.,:]\d|\s{0,3}(?:%|percent)|\s{0,3}(?:[-–—~/+*×·]|to|or|and|through)\s{0,3}[-+]?\d", re.IGNORECASE
)
_NOT_A_GRADE = frozenset(
    ("max", "maximum", "min", "minimum", "highest", "lowest", "full", "perfect", "possible", "best", "worst", "top")
)
_OVERALL = frozenset(("", "final", "overall", "total", "my", "the", "step"))
_CLOSING = " \t\r\n*_`~\"'“”‘’.!)]}>$|"


@dataclass(frozen=True, slots=True)
class _Mention:
    """A grade that a text names. value: None where it is no clear number on the scale. overall: of the whole step."""

    value: float | None
    start: int
    end: int
    overall: bool


def read_grade(reply: str, *, lowest: float, highest: float) -> float | None:
    """The grade, a whole number from lowest to highest; None where the reply gives none or it is not clear which.

    >>> [read_grade(reply, lowest=0, highest=10) for reply in ("**Score: 8**", "It is sound. 8/10", "Score: 7-8")]
    [8.0, 8.0, None]
    """
    text = re.sub(r"</\w{1,20}>", "", reply.rpartition("</think>")[2]).rstrip(_CLOSING)
    if "<think>" in text:
        return None
    mentions = [*_labelled(text, highest)] or [*_unlabelled(text, highest)]
    agree = len({mention.value for mention in mentions}) == 1
    value = mentions[0].value if agree else _last_word(text, mentions)
    return value if value is not None and value.is_integer() and lowest <= value <= highest else None


def _labelled(text: str, highest: float) -> Iterator[_Mention]:
    for found in _LABEL.finditer(text):
        before = found["before"].strip().lower()
        if before not in _NOT_A_GRADE:
            yield _mention(text, found, highest=highest, overall=before in _OVERALL and not found["of"])


def _unlabelled(text: str, highest: float) -> list[_Mention]:
    """A number that is all there is; else all in a form of grades, if one stands where a grade does."""
    bare = re.fullmatch(rf"{_MARKS}(?P<number>{_NUMBER})", text)
    if bare is not None:
        return [_Mention(float(bare["number"]), 0, len(text), overall=True)]
    enclosed = [_mention(text, found, highest=highest, overall=True) for found in _ENCLOSED.finditer(text)]
    shares = [_mention(text, found, highest=highest, overall=True) for found in _SHARE.finditer(text)]
    of_scale = [share for share in shares if share.value is not None]
    stands = any(share.end >= len(text) or _begins_line(text, share.start) for share in of_scale)
    return sorted([*enclosed, *(shares if stands else [])], key=lambda mention: mention.start)


def _begins_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" *_`#>-|")


def _mention(text: str, found: re.Match[str], *, highest: float, overall: bool) -> _Mention:
    """The number, read with what follows it."""
    end = found.end()
    scale = _SCALE.match(text, end)
    if scale is not None:
        end = scale.end()
    percent = highest == 100 and text[end : end + 1] == "%"
    clear = (scale is None or float(scale["most"]) == highest) and (percent or _GOES_ON.match(text, end) is None)
    value = float(found["number"].replace("−", "-")) if clear else None
    return _Mention(value, found.start("number"), end, overall)


def _last_word(text: str, mentions: list[_Mention]) -> float | None:
    """The grade that a reply with several ends with, alone on its line."""
    if not mentions or not mentions[-1].overall or mentions[-1].end < len(text):
        return None
    line = text.rfind("\n", 0, mentions[-1].start)
    return mentions[-1].value if all(mention.end <= line for mention in mentions[:-1]) else None
