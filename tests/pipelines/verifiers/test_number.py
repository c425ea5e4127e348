"""Verifier `number`: numbers as they are written, and which of a text is the final one."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from pipelines.verifiers.number import final_number, verify

#: (written, value): read the same after a marker, in a box, at the end of a sentence and as a reference
WRITTEN = [
    ("72", "72"), ("-3", "-3"), ("+5", "5"), ("-0", "0"), ("007", "7"), (".5", "0.5"), ("5.", "5"), ("72.00", "72"),
    ("1,234", "1234"), ("-1,234.5", "-1234.5"), ("1,234,567", "1234567"), ("12,34,567", "1234567"), ("1 234", "1234"),
    ("1 234 567.5", "1234567.5"), ("1\u00a0234", "1234"), ("1\u202f234", "1234"), ("1\u2009234", "1234"),
    ("1'234", "1234"),
    ("1’234", "1234"), ("1_234", "1234"), ("1\\,234", "1234"), ("1{,}234", "1234"), ("1,\\!234", "1234"),
    ("1.234,5", "1234.5"), ("1.234.567", "1234567"), ("1.234.567,25", "1234567.25"), ("1.234", "1.234"),
    ("−5", "-5"), ("–5", "-5"), ("—5", "-5"), ("‐5", "-5"), ("‑5", "-5"), ("﹣5", "-5"), ("－5", "-5"), ("５", "5"),
    ("1.5e3", "1500"), ("1.5E3", "1500"), ("1e-05", "0.00001"), ("1e+20", "100000000000000000000"), ("-2e3", "-2000"),
    ("1.5 × 10^3", "1500"), ("1.5x10^3", "1500"), ("1.5 * 10**3", "1500"), ("1.5 \\times 10^{3}", "1500"),
    ("1.5·10⁻³", "0.0015"), ("10^{-5}", "0.00001"), ("10^3", "1000"),
    ("3/4", "3/4"), ("-3/4", "-3/4"), ("3 / 4", "3/4"), ("\\frac{3}{4}", "3/4"), ("\\dfrac{3}{4}", "3/4"),
    ("\\frac34", "3/4"),
    ("-\\frac{3}{4}", "-3/4"), ("¾", "3/4"), ("1½", "3/2"), ("1 1/2", "3/2"), ("-1 1/2", "-3/2"),
    ("1\\frac{1}{2}", "3/2"),
    ("6/2", "3"), ("$72.00", "72"), ("-$3", "-3"), ("$-3", "-3"), ("\\$72", "72"), ("€72", "72"), ("£1,000", "1000"),
    ("72 €", "72"), ("50%", "50"), ("50\\%", "50"), ("72 dollars", "72"), ("**72**", "72"),
    ("123456789012345678901", "123456789012345678901"),
]  # fmt: skip


def value(written: str) -> Fraction:
    return Fraction(written)


@pytest.mark.parametrize(("written", "meant"), WRITTEN)
@pytest.mark.parametrize(
    "form", ["#### {}", "so it is {}.", "so \\boxed{{{}}}.", "<answer>{}</answer>", "{}", "$x = {}$"]
)
def test_a_number_means_the_same_wherever_it_stands(form: str, written: str, meant: str) -> None:
    found = final_number(form.format(written))
    assert found is not None
    assert Fraction(found) == value(meant)


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("#### 3/4", "3/4", True),
        ("#### 0.75", "3/4", True),
        ("#### 3", "3/4", False),
        ("#### 4", "3/4", False),
        ("#### 0.333", "1/3", False),
        ("#### 1.5e3", "1.5", False),
        ("#### 1.5e3", "3", False),
        ("#### 0.00001", "1e-05", True),
        ("#### 0.0001", "1e-05", False),
        ("#### -5", "1e-05", False),
        ("#### 5", "-5", False),
        ("3–5", "-5", False),
        ("3–5", "5", True),
        ("7-3", "3", True),
        ("(2+5)-3", "3", True),
        ("the years 1939-1945", "1945", True),
        ("- 5 apples", "5", True),
        ("#### - 5", "-5", True),
        ("\\boxed{- 5}", "-5", True),
        ("3, 4", "4", True),
        ("1,2", "2", True),
        ("12,3456", "3456", True),
        ("[8.124,12.852]", "12.852", True),
        ("in 2019 234 people", "234", True),
        ("on 3/4/2020", "2020", True),
        ("12 x 10 = 120", "120", True),
        ("profit = $200,000 - $130,000 = $70,000", "70000", True),
        ("#### 12\nno, wait\n#### 72 clips and 3 more", "72", True),
        ("#### ,", "72", False),
        ("\\boxed{5} and 6 more", "5", True),
        ("\\boxed{5}. No: \\boxed{6", "5", False),
        ("\\boxed{5}. No: \\boxed{6", "6", False),
        ("\\boxed{2\\sqrt{3}}", "2", False),
        ("\\boxed{2\\sqrt{3}}", "3", False),
        ("\\boxed{2x}", "2", False),
        ("\\boxed{12 \\text{ cm}^2}", "12", True),
        ("\\boxed{90^\\circ}", "90", True),
        ("\\boxed{x = 5}", "5", True),
        ("\\boxed{5} \n#### 6", "6", True),
        ("<think>#### 5</think> 6", "5", False),
        ("<think>#### 5", "5", False),
        ("#### 1e5000", "1e5000", True),
        ("#### 10/0", "10", False),
    ],
)
def test_which_number_is_final(text: str, answer: str, correct: bool) -> None:
    assert verify(text, answer).correct is correct


def test_huge_integers_are_compared_exactly() -> None:
    digits = "123456789" * 1000
    assert verify(f"#### {digits}", digits).correct
    assert not verify(f"#### {digits}1", digits).correct
    assert not verify(f"#### {digits[:-1]}8", digits).correct


@pytest.mark.parametrize("text", ["", "no idea", "72 is wrong\n#### none", "nan", "inf", "-Infinity", "\\boxed{}"])
def test_what_holds_no_number_has_none_and_cannot_be_a_reference(text: str) -> None:
    assert final_number(text) is None
    assert verify(text, "5").unparseable
    with pytest.raises(ValueError, match="holds no number"):
        verify("5", text)


def test_a_decimal_stays_one() -> None:
    assert final_number("it is 72.00") == Decimal("72.00")
    assert isinstance(final_number("1/3"), Fraction)
