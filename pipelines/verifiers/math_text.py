r"""A mathematical answer as math-verify reads it: what models and data sets write, in the LaTeX that its parser knows.

Each rule mends one thing that the library (0.9.0) misreads: `12\,345` as 12 + 345, `1.5e-3` as 1.5 e - 3, `√5` not at
all. Stdlib only.
"""

from __future__ import annotations

import re

from pipelines.verifiers.answers import plain_typography

VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9),
    "⅒": (1, 10),
}  # fmt: skip
_SYMBOLS = str.maketrans(
    {sign: f"\\frac{{{above}}}{{{below}}}" for sign, (above, below) in VULGAR.items()}
    | {
        "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/",
        "∕": "/", "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
        "≈": r"\approx ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
        "°": r"^\circ ", "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
        "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ",
        "τ": r"\tau ", "φ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ", "∠": r"\angle ",
        "“": '"', "”": '"', "’": "'", "‘": "'", "′": "'", "…": r"\ldots ", "⋯": r"\cdots ",
    }
)  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_ELLIPSIS = re.compile(r"\\[lc]?dots[cbmio]?(?![a-zA-Z])|\.\.\.+")
_STYLE = r"text(?:bf|it|rm|normal|sf)?|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mbox|hbox|operatorname"
#: (pattern, replacement), applied in order
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # superscripts, subscripts, roots
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+", lambda found: f"^{{{found[0].translate(SUPERSCRIPTS)}}}"),
        (r"[₀₁₂₃₄₅₆₇₈₉]+", lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}"),
        (
            r"([√∛∜]) ?(\(([^()]*)\)|\{[^{}]*\}|\d+(?:\.\d+)?|\\?[a-zA-Z]+)",
            lambda found: _root(found[1], found[3] or found[2]),
        ),
        (r"(?<![\\a-zA-Z])sqrt ?(?=[({])", r"\\sqrt"),
        (r"\\sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])(?:np\.|math\.)?(?=(?:arc)?(?:sin|cos|tan)\(|(?:log|ln|exp)\()", r"\\"),
        (r"(?<![\\a-zA-Z])(?:np\.|math\.)?pi(?![a-zA-Z])", r"\\pi "),
        # what only decorates
        (r"\\(?:boxed|fbox) ?\{", "{"),
        (r"(?<!\\)\\[()\[\]]|(?<!\\)\$", ""),
        (r"\\(?:[bB]igg?[lrm]?|(?:display|text|script)style|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac (\d) (\d)", r"\\frac{\1}{\2}"),
        (rf"\\(?:{_STYLE}) ?\{{ ?([-+]?[\d.,]*\d%?) ?\}}", r"\1"),
        # money
        (r"\\\$|[€£¥₹]|\\(?:pounds|euro)(?![a-zA-Z])", ""),
        # spaces, and separators of thousands
        (r"\\!\s?", ""),
        (r"(?<=\d) ?(?:\\[,;: ]|\\thinspace(?![a-zA-Z])|~) ?(?=\d{3}(?!\d))", ""),
        (r"(?<=\d) ?\{,\} ?(?=\d{3}(?!\d))", ""),
        (r"(?<=\d) ?\{,\} ?(?=\d)", "."),
        (r"(?<!\\)\\[,;: ]|~|\\(?:q?quad|thinspace|enspace)(?![a-zA-Z])", " "),
        (r" {2,}", " "),
        (r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/]| ?/)", lambda found: found[0].replace(" ", "")),
        (r"(?<![\d.,'])(\d{1,3})((?:'\d{3})+)(?!\d)", lambda found: found[0].replace("'", "")),
        # numbers
        (r"(?<=\d)\.(?= ?[-+*/)\]},^])", ""),
        (r"(?<![\w\\])(\d+\.\d+|\d+)[eE]([-+]?\d{2,}|\d+)(?![\w.])", r"\1 \\times 10^{\2}"),
        (r"(?<![\w\\])(\d+\.\d+[eE]|\d+E)([-+]\d)(?![\w.])", lambda found: _scientific(found[1][:-1], found[2])),
        (r"(?<=\d) ?[xX] ?(?=10 ?\^)", r" \\times "),
        (r"\*\*", "^"),
        (r"\^ ?([-+]\d+)", r"^{\1}"),
        (r"(?<![\d.,/^_}\w])(\d+) (\d+) ?/ ?(\d+)(?![\d/])", r"\1\\frac{\2}{\3}"),
        (r"(?<![\d.,])(\d*)\.(\d*)\\(?:overline|bar|dot) ?\{?(\d+)\}?", lambda found: _repeating(*found.groups())),
        # units and the like, at the end
        (r" ?\^ ?\{? ?\\circ ?\}? ?(?:(?:\\(?:text|mathrm) ?\{ ?)?[CFK] ?\}?)?$", r"^\\circ"),
        (rf"(?<=[\d}}\w)]) ?\\(?:{_STYLE}) ?\{{[^{{}}]*\}} ?\^ ?\{{?\d\}}?$", ""),
        # a value under its name or in its set
        (r"^=", ""),
        (r"^[a-zA-Z] ?\\in(?![a-zA-Z]) ?", ""),
    )
)
# A number and words: "5 dollars", "3 m/s^2". Short words only where they are units, for "2 xy" is a product.
_WORDS = re.compile(
    r"(?P<value>[-+]?(?:[\d.,]*\d|\d*\\frac\{\d+\}\{\d+\})) "
    r"(?P<unit>(?:[a-zA-Z]{3,}|mm|cm|dm|km|mg|kg|ft|in|mi|yd|oz|lb|lbs|hr|ml|mL|m(?=/s))"
    r"(?:[ /][a-zA-Z]+)*(?: ?\^ ?\{?\d\}?)?)"
)
_NO_UNITS = frozenset({
    "and", "or", "mod", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "log",
    "ln", "exp", "sqrt", "if", "for", "when", "percent", "pct", "percentage", "times", "over",
    "choose",
})  # fmt: skip
_AMBIGUOUS = re.compile(r"(?<![\w\\.])(\d+)e([-+]\d)(?![\w.])")
_SEVERAL = re.compile(r"(?<![\d.^_])\d[\d.]* \d")
_BASED = re.compile(r"(?P<digits>\d[\dA-Za-z]{0,99}) ?_ ?\{? ?(?P<base>\d{1,2}) ?\}?")
_STYLED = re.compile(rf"\\(?:{_STYLE}) ?\{{([^{{}}]*)\}}")
_SIZED = re.compile(r"\\(?:left|right)(?![a-zA-Z])")
_NOTHING = re.compile(r"[\s{}]+")


def readings(answer: str) -> list[str]:
    r"""What an answer may mean, likeliest first: `2e-3` is 0.002, or 2 e - 3. Else one.

    >>> readings("12\\,345."), readings("1.5e-3"), readings("2e-3"), readings("10 − 2√5")
    (['12345'], ['1.5 \\times 10^{-3}'], ['2 \\times 10^{-3}', '2e-3'], ['10 - 2\\sqrt{5}'])
    """
    tidied = tidy(answer)
    scientific = _AMBIGUOUS.sub(lambda found: _scientific(found[1], found[2]), tidied)
    return [scientific] if scientific == tidied else [scientific, tidied]


def tidy(answer: str) -> str:
    r"""The answer in the library's LaTeX, without decoration, money, separators of thousands and a full stop.

    >>> tidy("$\\text{13}$"), tidy("\\frac{1}{2} \\text{ cm}^{2}"), tidy("1½"), tidy("0.1\\overline{6}")
    ('13', '\\frac{1}{2}', '1\\frac{1}{2}', '\\frac{15}{90}')
    """
    text = " ".join(plain_typography(answer).translate(_SYMBOLS).split())
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
        text = text.strip()
    if not _ELLIPSIS.search(text[-8:]):
        text = text.rstrip(".,; \\")
    return _without_unit(text)


def plain(tidied: str) -> str:
    r"""A tidied answer as text to compare: one spelling of dots, no styles, braces and spaces; words in lower case.

    >>> plain("1, 2, \\dots, n"), plain("\\text{No solution}"), plain("X")
    ('1,2,...,n', 'nosolution', 'X')
    """
    text = _SIZED.sub("", _ELLIPSIS.sub("...", tidied))
    text = _NOTHING.sub("", _STYLED.sub(r"\1", text))
    return text.lower() if re.search(r"(?<!\\)\b[A-Za-z]{3,}", text) else text


def only_text(tidied: str) -> bool:
    """Whether the library would make up a value: of an ellipsis the terms around it, of "1 2" the sum."""
    return bool(_ELLIPSIS.search(tidied) or _SEVERAL.search(tidied))


def in_base(tidied: str) -> int | None:
    """The value of a number with its base, 101_2; None for anything else. The library leaves the base out.

    >>> in_base("101_2"), in_base("101_{3}"), in_base("x_1")
    (5, 10, None)
    """
    found = _BASED.fullmatch(tidied)
    if found is None:
        return None
    try:
        return int(found["digits"], int(found["base"]))
    except ValueError:
        return None


def _root(sign: str, radicand: str) -> str:
    return {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}[sign] + f"{{{radicand.strip('{}')}}}"


def _scientific(mantissa: str, exponent: str) -> str:
    return f"{mantissa} \\times 10^{{{exponent}}}"


def _repeating(whole: str, once: str, again: str) -> str:
    r"""0.1 with 6 repeated: (16 - 1) / 90."""
    if max(map(len, (whole, once, again))) > 40:
        return f"{whole}.{once}\\overline{{{again}}}"
    below = 10 ** len(once) * (10 ** len(again) - 1)
    above = int(whole + once + again) - int(whole + once or "0")
    return f"\\frac{{{above}}}{{{below}}}"


def _without_unit(text: str) -> str:
    found = _WORDS.fullmatch(text)
    if found is None or _NO_UNITS.intersection(re.split(r"[ /.^]+", found["unit"].lower())):
        return text
    return found["value"]
