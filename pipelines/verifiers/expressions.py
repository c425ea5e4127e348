r"""Arithmetic expressions in prose: `48 feet * 2/3`, `20% of $50`, `3(2 + 4)`, `1 - 3/4`, found at one side of an "=".

A text becomes a row of tokens; an expression is a run of them in which operands (numbers, with or without a unit, and
brackets) and operators alternate. Each side is at most LONGEST tokens, so the work is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simpleeval import InvalidExpression, SimpleEval

from pipelines.verifiers.math_text import SUPERSCRIPTS, VULGAR
from pipelines.verifiers.words import (
    BINDS_BEFORE,
    BINDS_BEHIND,
    CLAUSE,
    COMPUTING,
    FACTORS,
    LABELS,
    MEASURES,
    SHARES,
)

LONGEST = 60  # tokens on one side of an "="; beyond it an equation is no arithmetic step but noise
LONGEST_UNIT = 4  # words

_REWRITTEN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>]{0,200}>>", ""),  # GSM8K's annotations
        (r"\\[dt]?frac ?\{([^{}]{1,40})\} ?\{([^{}]{1,40})\}", r"((\1)/(\2))"),
        (r"\\(?:times|cdot)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\(?:left|right)(?![a-zA-Z])|\\[,;:! ]", " "),
        (r"\\(?:text|mathrm|boxed|mathbf) ?\{([^{}]{0,80})\}", r" \1 "),
        (r"\\%", "%"),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9}", lambda found: "^" + found[0].translate(SUPERSCRIPTS)),
        (rf"(?<=\d) ?(?=[{''.join(VULGAR)}])", " "),
        (rf"[{''.join(VULGAR)}]", lambda found: "{}/{}".format(*VULGAR[found[0]])),
        (r"\\?[$€£]", ""),
        (r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=\s|[.,;:!?)]|$)", ""),  # Markdown's bold
    )
)
_WORD = r"(?:[^\W\d_]|¢)+(?:['’-][^\W\d_]+)*"
_TOKEN = re.compile(
    r"(?P<other>[<>!≤≥≠≈~]=|=>|->|\d+:\d+|\.\.+|…|!|(?<![\d.,])0\d+(?![\d.]))"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3}){1,20}(?![\d:])|\d++)(?:\.\d++)?(?!:\d)|\.\d++)|(?P<percent>%|percent\b)"
    rf"|(?P<equals>==?)|(?P<power>\*\*|\^)|(?P<unit>/ ?{_WORD})|(?P<times>[*×·⋅∗]|(?<=[\d%) ])[xX](?=\s?[\d(.]))"
    rf"|(?P<over>[/÷])|(?P<sign>[-+−–])|(?P<open>[(\[])|(?P<close>[)\]])|(?P<word>{_WORD})|(?P<stop>\S)"
)
_OPERATORS = {"power": "**", "times": "*", "over": "/"}
_ALL_OPERATORS = frozenset({*_OPERATORS, "sign"})
_SIGNS = str.maketrans("−–", "--")


@dataclass(frozen=True)
class Token:
    """A piece of a text. spaced: white space stands before it."""

    kind: str
    text: str
    spaced: bool

    @property
    def word(self) -> str:
        """The word in lower case; empty for anything else."""
        return self.text.lower() if self.kind == "word" else ""


@dataclass(frozen=True)
class Expression:
    """One side of an equation.

    codes: as Python, in every reading (a percent sign worth 1/100 or nothing, "of" as a product or as the end), each
    with the unit in the last place of a single number as written, else 0. computed: it has an operator, divided: a
    division, summed: a sum. ambiguous: two divisions in a row, 14 / 1 / 4. units: the words at its operands.
    """

    codes: frozenset[tuple[str, float]]
    computed: bool
    divided: bool
    summed: bool
    ambiguous: bool
    units: frozenset[str]

    def values(self) -> list[tuple[float, float]]:
        """What it may be worth, and the unit in the last place of each; none where it cannot be computed."""
        return [(value, place) for code, place in sorted(self.codes) if (value := _value(code)) is not None]


def converts(left: Expression, right: Expression, ratio: float) -> bool:
    """Whether an equation whose sides differ by `ratio` may convert units, which nothing here can judge."""
    sizes = [{(MEASURES[unit], unit.rstrip("s")) for unit in side.units if unit in MEASURES} for side in (left, right)]
    both = sizes[0] | sizes[1]
    measures = [measure for measure, _ in both]
    apart = all(sizes) and not sizes[0] & sizes[1]
    if not (apart or "money" in measures or len(set(measures)) < len(measures)):
        return False
    return left.summed or right.summed or any(abs(ratio / factor - 1) < 1e-6 for factor in FACTORS)


def tokens(text: str) -> list[Token]:
    """The text in pieces, LaTeX and Markdown rewritten, without money signs."""
    for pattern, replacement in _REWRITTEN:
        text = pattern.sub(replacement, text)
    row = []
    for found in _TOKEN.finditer(text):
        kind = "=" if found.lastgroup == "equals" else str(found.lastgroup)
        row.append(Token(kind, found[0], found.start() == 0 or text[found.start() - 1].isspace()))
    return row


def before(row: Sequence[Token], at: int) -> Expression | None:
    """The longest expression that ends before token `at`; None where it cannot be read."""
    start = at
    while start > max(0, at - LONGEST) and row[start - 1].kind not in ("stop", "=", "other"):
        start -= 1
    for begin in range(start, at):
        parser = _Parser(row, begin, at)
        if parser.expression() and parser.at == at:
            alone = begin == start and not parser.units and (begin == 0 or row[begin - 1].text in "=,;:")
            if _bound(row, begin, start) or not (parser.operators or alone):
                return None
            return parser.result()
    return None


def behind(row: Sequence[Token], at: int) -> Expression | None:
    """The longest expression that begins behind token `at`; None where it cannot be read."""
    end = min(len(row), at + 1 + LONGEST)
    readings = []
    for shares in (True, False):
        parser = _Parser(row, at + 1, end, shares=shares)
        if not parser.expression() or _goes_on(row, parser.at):
            return None
        parser.units.update(token.text.lower() for token in row[parser.at : parser.at + 2] if token.kind == "word")
        readings.append(parser.result())
    whole, short = readings
    return replace(short, codes=whole.codes | short.codes, units=whole.units | short.units)


def _bound(row: Sequence[Token], begin: int, start: int) -> bool:
    """Whether what stands before an expression, between the tokens `start` and `begin`, belongs to it."""
    if begin == start:
        return begin > 0 and _is_split(row, begin)
    if any(row[at].kind == "sign" and row[at + 1].kind == "number" for at in range(start, begin)):
        return True  # "20 + 10 more to the 29 + 24": one of several, or a part
    previous, earlier = row[begin - 1], row[begin - 2] if begin - 2 >= start else None
    if previous.kind == "word" and row[begin].kind != "sign" and row[begin].spaced:
        return _binds(previous, earlier, clause=start > 0 and row[start - 1].kind == "=")
    return not (
        previous.kind == "open" and (earlier is None or earlier.kind not in (*_ALL_OPERATORS, "number", "close"))
    )


def _binds(word: Token, earlier: Token | None, *, clause: bool) -> bool:
    """Whether a word before an expression computes with it. clause: the words follow an equation, and 2 + 2 = 4."""
    if word.word in ("of", "by", "and") and earlier is not None and earlier.kind not in _ALL_OPERATORS:
        counts = earlier.kind in ("number", "percent", "close") or earlier.word in SHARES | BINDS_BEHIND
        return counts and not (clause and word.word == "and")
    if earlier is not None and earlier.kind in _ALL_OPERATORS:  # "25 pupils + his 1 teacher"
        return True
    return word.word in BINDS_BEFORE | LABELS or _is_name(word)


def _is_split(row: Sequence[Token], begin: int) -> bool:
    """Whether a sign cuts an expression in two: 13,2000 and 14, 400 and .8 + . 84, or a relation stands before it."""
    sign, earlier = row[begin - 1], row[begin - 2].kind if begin > 1 else ""
    if sign.kind == "=" or sign.text in ":;":
        return False
    stated = begin > 2 and row[begin - 3].kind == "="  # 3 * 50 = 150, 150 + 2 = 152
    thousands = sign.text == "," and earlier == "number" and len(row[begin].text) == 3 and not stated
    return sign.kind == "other" or not row[begin].spaced or thousands or earlier in _ALL_OPERATORS


def _goes_on(row: Sequence[Token], at: int) -> bool:
    """Whether what follows an expression belongs to it."""
    if at >= len(row):
        return False
    following = row[at]
    after = row[at + 1] if at + 1 < len(row) else None
    if following.kind in ("number", "other", *_ALL_OPERATORS) or following.word in BINDS_BEHIND:
        return following.word != "times" or (after is not None and after.kind in ("number", "open"))
    if following.word == "and":  # a mixed number, 5 and 2/3
        kinds = [token.kind for token in row[at + 1 : at + 3]]
        return kinds[:1] == ["open"] or kinds == ["number", "over"]
    if following.text in ("m", "g", "l") and not following.spaced:  # 2000g, but not 10m - 7
        return after is not None and after.kind in ("sign", "times", "over")
    return _is_name(following) or (following.kind == "open" and not following.spaced)


def _is_name(token: Token) -> bool:
    """Whether a letter is a variable rather than a unit or an article."""
    if token.kind == "unit":
        return len(token.text.lstrip("/ ")) == 1 and token.text[-1] not in "hsmgl"
    return (
        token.kind == "word"
        and len(token.text) == 1
        and (not token.spaced or token.text not in "amg")
        and token.text != "¢"
    )


class _Parser:
    """Reads an expression from `row[at:end]` and collects its code; `at` stops behind what could be read."""

    def __init__(self, row: Sequence[Token], at: int, end: int, *, shares: bool = True) -> None:
        self.row, self.at, self.end, self.shares = row, at, end, shares
        self.code: list[str] = []
        self.percent: list[str] = []
        self.operators = 0
        self.numbers: list[str] = []
        self.units: set[str] = set()

    def result(self) -> Expression:
        """What was read."""
        code, percent = "".join(self.code), "".join(self.percent)
        single = self.numbers[0] if len(self.numbers) == 1 and not self.operators else None
        place = 0.0 if single is None else 10.0 ** -len(single.partition(".")[2])
        return Expression(
            codes=frozenset({(code, place), (percent, place if percent == code else place / 100)}),
            computed=bool(self.operators),
            divided="/" in code,
            summed="+" in code or "-" in code,
            ambiguous="//" in re.sub(r"[^/*+-]", "", code.replace("**", "")),
            units=frozenset(self.units),
        )

    def expression(self) -> bool:
        """Operands and operators in turn. False where no operand is there, or one is missing behind an operator."""
        while True:
            while self._kind() == "sign":
                if self.row[self.at].text == "+" and self.code and self.code[-1] != "(":
                    return False  # "1 meat *+1"
                self._take(self.row[self.at].text.translate(_SIGNS))
            if not self._operand():
                return False
            if not self._operator():
                return True

    def _operand(self) -> bool:
        begin = len(self.percent)
        if self._kind() == "number":
            self._number()
        elif self._kind() == "open":
            self._take("(")
            if not self.expression() or self._kind() != "close":
                return False
            self._take(")")
        else:
            return False
        if self._kind() == "percent":
            self.at += 1
            self.percent[begin:] = ["(", *self.percent[begin:], "/100)"]
        self._unit()
        return True

    def _number(self) -> None:
        """A number, a mixed number 1 1/2, or behind a spaced "/" a fraction: 28 / 1/5."""
        row, at = self.row, self.at
        first = _plain(row[at].text)
        self.numbers.append(first)
        kinds = [token.kind for token in row[at : min(at + 4, self.end)]]
        if kinds == ["number", "number", "over", "number"] and _is_fraction(row[at + 1 : at + 4]) and "." not in first:
            self._take(f"({first}+{_plain(row[at + 1].text)}/{_plain(row[at + 3].text)})", 4)
            self.operators += 1
        elif (
            kinds[:3] == ["number", "over", "number"]
            and row[at].spaced
            and not (row[at + 1].spaced or row[at + 2].spaced)
            and row[at - 1].kind == "over"
            and self.code
        ):
            self._take(f"({first}/{_plain(row[at + 2].text)})", 3)
        else:
            self._take(f"({first})")

    def _unit(self) -> None:
        """Words behind an operand, where an operator, a bracket or the end follows them."""
        at = self.at
        while at < min(self.end, self.at + LONGEST_UNIT) and self.row[at].kind in ("word", "unit"):
            if self.row[at].word in COMPUTING | CLAUSE or _is_name(self.row[at]):
                return
            at += 1
        if at == self.at:
            return
        words = {self.row[index].text.lstrip("/ ").lower() for index in range(self.at, at)}
        if [token.kind for token in self.row[at : min(at + 2, self.end)]] == ["power", "number"]:  # cm^2
            at += 2
        if at == self.end or self.row[at].kind in (*_ALL_OPERATORS, "close", "="):
            self.units |= words
            self.at = at

    def _operator(self) -> bool:
        """Whether an operator follows, and behind it something to compute with."""
        kind = self._kind()
        after = self.row[self.at + 1].kind if self.at + 1 < self.end else ""
        if kind == "open" and not self.row[self.at].spaced:
            self.code.append("*")
            self.percent.append("*")
        elif (
            kind == "word"
            and self.shares
            and self.row[self.at].word == "of"
            and self._is_share()
            and after in ("number", "open")
        ):
            self._take("*")
        elif kind in _ALL_OPERATORS and after in ("number", "open", "sign"):
            self._take(_OPERATORS.get(kind) or self.row[self.at].text.translate(_SIGNS))
        else:
            return False
        self.operators += 1
        return True

    def _is_share(self) -> bool:
        """Whether "of" multiplies here: behind a percentage or a fraction."""
        return self.row[self.at - 1].kind == "percent" or (self.at >= 2 and self.row[self.at - 2].kind == "over")

    def _kind(self) -> str:
        return self.row[self.at].kind if self.at < self.end else ""

    def _take(self, code: str, count: int = 1) -> None:
        self.at += count
        self.code.append(code)
        self.percent.append(code)


def _is_fraction(row: Sequence[Token]) -> bool:
    """Whether number, "/", number are a proper fraction written without spaces."""
    above, over, below = row
    return (
        above.spaced and not over.spaced and not below.spaced and float(_plain(above.text)) < float(_plain(below.text))
    )


def _plain(number: str) -> str:
    """A number as Python reads it: 1,000 is 1000, 007 is 7."""
    number = number.replace(",", "")
    return number if "." in number else number.lstrip("0") or "0"


def _value(code: str) -> float | None:
    try:
        return float(SimpleEval(functions={}, names={}).eval(code))
    except (InvalidExpression, SyntaxError, ArithmeticError, TypeError, ValueError):
        return None
