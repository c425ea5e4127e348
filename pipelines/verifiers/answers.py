r"""Where in a completion its answer stands, for every shipped verifier: after the reasoning, in `<answer>`, in a box.

Every pass is one scan, linear in the text, for a collapsed policy writes a megabyte of one character. Stdlib only.
"""

from __future__ import annotations

import re
from typing import Literal

#: What of a completion can be the answer. skip: what follows the end of the reasoning, and nothing where reasoning was
#: opened and never ended; required: the same, and nothing either where no end is there (for chat templates that open
#: the reasoning in the prompt); keep: the whole text.
Reasoning = Literal["skip", "required", "keep"]

_REASONING = re.compile(
    r"(?P<open><(?:think(?:ing)?|thoughts?|reasoning|seed:think)>|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>)"
    r"|</(?:think(?:ing)?|thoughts?|reasoning|seed:think)>|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<(?P<close>/)?(?:final_)?answer>", re.IGNORECASE)
_BRACE = re.compile(r"(?P<box>\\{1,2}(?:boxed|fbox)\s*\{)|\\.|(?P<brace>[{}])", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]*(?=[-+−.\d\\])")
# Hyphens, dashes and minus signs; apostrophes; the full-width forms of ASCII; spaces other than the plain one.
_TYPOGRAPHY = str.maketrans(
    dict.fromkeys("−–—‐‑‒﹣－", "-")
    | dict.fromkeys("’‘ʼ", "'")
    | {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F) if chr(code) != "-"}
    | dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f")
)


def answer_text(text: str, reasoning: Reasoning = "skip") -> str:
    r"""The part of a completion that can be its answer: after the reasoning, and there the last `<answer>`.

    An `<answer>` that is not closed (its closing tag may be the stop string) reaches to the end. Raises ValueError for
    an unknown `reasoning`.

    >>> answer_text("<think>5?</think> So <answer>6</answer>."), answer_text("<think>It is 5. Or"), answer_text("5")
    ('6', '', '5')
    """
    text = after_reasoning(text, reasoning)
    if "<" not in text:
        return text
    start = end = None
    for tag in _TAG.finditer(text):
        if not tag["close"]:
            start, end = tag.end(), None
        elif end is None:
            end = tag.start()
    return text if start is None else text[start:end]


def after_reasoning(text: str, reasoning: Reasoning = "skip") -> str:
    """What follows the last end of reasoning; empty where reasoning is open at the end. Raises ValueError as above."""
    if reasoning not in ("skip", "required", "keep"):
        raise ValueError(f"reasoning is {reasoning!r}; choose skip, required or keep")
    if reasoning == "keep":
        return text
    last = None
    if "<" in text or "[" in text or "◁" in text:  # with which every mark begins
        for mark in _REASONING.finditer(text):
            last = mark
    if last is None:
        return text if reasoning == "skip" else ""
    return "" if last["open"] else text[last.end() :]


def boxed_span(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last `\boxed{}` or `\fbox{}` begins and ends; None where there is no box.

    A last box that is never closed holds nothing: the model was cut off, or did not settle. Of nested boxes the outer
    one counts. `\boxed 5`, without braces, counts where no box has braces.

    >>> boxed_span("so $\\boxed{\\frac{1}{2}}$"), boxed_span("\\boxed{5}, no: \\boxed{6")
    ((11, 22), (23, 23))
    """
    if "box" not in text:
        return None
    opened: list[int | None] = []  # for each brace that is open, where the content of its box begins, if it is a box's
    found: tuple[int, int] | None = None
    for token in _BRACE.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["brace"] == "{":
            opened.append(None)
        elif token["brace"] and opened and (start := opened.pop()) is not None:
            found = (start, token.start())
    unclosed = [start for start in opened if start is not None]
    if unclosed and (found is None or unclosed[-1] > found[1]):
        return len(text), len(text)
    return found or _bare_box(text)


def last_box(text: str) -> str | None:
    """What the last box holds, stripped; None where there is no box."""
    span = boxed_span(text)
    return None if span is None else text[slice(*span)].strip()


def plain_typography(text: str) -> str:
    """The text with plain dashes, apostrophes and spaces, full-width forms as ASCII, and no invisible signs.

    >>> plain_typography("（−5\u202f000）")
    '(-5 000)'
    """
    return text if text.isascii() else text.translate(_TYPOGRAPHY)


def _bare_box(text: str) -> tuple[int, int] | None:
    """Up to the "$" of the line, as in MATH's own script, else up to white space."""
    ends = [box.end() for box in _BARE_BOX.finditer(text)]
    if not ends:
        return None
    line = text[ends[-1] :].partition("\n")[0]
    content = line.partition("$")[0] if "$" in line else line.split(maxsplit=1)[0]
    return ends[-1], ends[-1] + len(content)
