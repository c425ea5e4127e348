"""Step checker `equations`: which equations of a text are read, and whether they hold."""

from __future__ import annotations

import pytest

from pipelines.verifiers.equations import check_steps, equations, stated

R, W, N = [True], [False], [None]

READ = [
    # arithmetic
    ("48/2 = 24 clips", R), ("48/2 = 25 clips", W), ("16 - 3 - 4 = 9, then 9 * 2 = 19", [True, False]),
    ("3(2 + 4) = 18", R),
    ("3(2 + 4) = 19", W), ("(2 + 3) * 4 = 20", R), ("(2+3)(4+1) = 25", R), ("2^3 + 1 = 9", R), ("2**3 = 8", R),
    ("2^3 = 6", W),
    ("-(3 - 5) = 2", R), ("-(3 - 5) = -2", W), ("5 - -3 = 8", R), ("-5 + 3 = -2", R), ("3 - 5 = -2", R),
    ("3 − 5 = −2", R),
    ("1,000 + 24 = 1,024", R), (".25*24 = 6", R), ("so that is .25*24 = 6 students", R), ("2 x 3 = 6", R),
    ("2x3 = 6", R),
    ("2 × 3 = 7", W), ("6 ÷ 4 = 1.5", R), ("3·4 = 12", R), ("[2 + 3] * 4 = 20", R), ("12/2/3 = 2", R),
    ("28 / 1/7 = 196", R),
    ("2³ + 1 = 9", R), ("2½ + 1 = 3½", R), ("3 * 50 = 150, 150 + 2 = 153", [True, False]), ("√16 + 1 = 5", N),
    ("5 plus 3 = 8", N),
    # both sides
    ("10 - 4 = 2 * 3", R), ("10 - 4 = 2 * 4", W), ("4 + 4 = 8/2", W), ("1 - 3/4 = 1/4", R), ("12 = 3 * 4", R),
    ("13 = 3 * 4", W),
    ("2 + 3 = 5 = 10 / 2", [True, True]), ("2 + 3 = 6 = 12 / 2", [False, True]), ("1/3 + 1/3 = 2/3", R),
    ("1/2 = 0.5", R),
    ("Total = 3 + 4 = 7", [None, True]), ("1 1/2 + 1 = 2 1/2", R), ("2 1/2 * 2 = 4", W), ("2 + 2 == 4", R),
    # prose, units, money
    ("Twenty students stand for 1 - 3/4 = 1/4 of the class.", R), ("48 feet * 2/3 = 32 feet", R),
    ("48 feet * 2/3 = 33 feet", W),
    ("$1.50 x 4 = $6.00", R), ("$5/hour * 3 hours = $15", R), ("5 apples + 3 oranges = 8 fruits", R),
    ("\\$5 + \\$3 = \\$8", R),
    ("She sold 48/2 = <<48/2=24>>24 clips", R), ("a total of 2 + 2 = 5.", W), ("1. 5 + 3 = 8", R),
    ("Step 2: 5 + 3 = 8", R),
    ("(5 + 3 = 8)", R), ("- 5 + 3 = -2", R), ("5 + 3 = **8**", R), ("$5 \\times 3 = 15$", R),
    ("\\frac{1}{2} + \\frac{1}{2} = 1", R),
    ("5 m^2 + 3 m^2 = 8 m^2", R), ("5 + 3 = 8 more apples (not 9)", R), ("he paid 20*2 = 40 times", R),
    ("30000/8 = 3750m^2", R),
    # percent
    ("20% of $50 = $10", R), ("20% of 50 = 11", W), ("50/200 = 25%", R), ("50/200 = 26%", W), ("100 - 20 = 80%", R),
    ("1/2 of 24 = 12", R),
    ("100% - 70% = 30%", R), ("100% - 70% = 20%", W), ("26000/80% = 32500", R), ("3/4 = 75% of it", R),
    ("80 * 20% = 16", R),
    # rounding
    ("10 / 3 = 3.33", R), ("10 / 3 = 3.34", W), ("2/3 = 0.67", R), ("2/3 = 0.66", R), ("2/3 = 0.65", W),
    ("50/3 = 16", R), ("7 * 0.7 = 5", R),
    ("10 + 3 = 12.9", W), ("1e3 = 1000", N),
    # what cannot be read is not judged
    ("5 / 0 = 1", N), ("9**9**9 = 1", N), ("x + 5 = 10", N), ("2x = 10", N), ("2x + 3 = 7", N), ("3A + 7 = 19", N),
    ("10m - 7 = 93", N),
    ("15 + 2a = 35", N), ("8/3 = 24/Y", N), ("half of 50 = 25", N), ("twice 5 + 3 = 13", N), ("total - 5 = 3", N),
    ("4 of 5 + 1 = 5", N),
    ("8 batches = 5.5 * 8", N), ("Week 1 + Week 2 = 35 + 35", N), ("He drove 1.5 hours = 24 * 1.5", N),
    ("10:30 + 1 = 11:30", N),
    ("2 dozen * 3 = 72", N), ("17/3 = 5 and 2/3", N), ("250 x 12 = 3 000", N), ("$1 / 2 = 50 cents", N),
    ("4 pounds - 6 ounces = 58 ounces", N),
    ("2 hours * 60 = 7200 seconds", N), ("1550 / 12 = 129.1666...", N), ("13,2000 / 60 = 220", N), ("5! = 120", N),
    ("f(2) = 4 + 1", N),
    ("3 + 4 = x", N), ("5 + 3 = 4 + x", N), ("32 - 28 = 4 million", N), ("day 1 * 2 = 20", N),
    ("0900-0130 = 0730", N),
    # nothing is computed
    ("7 = 7", []), ("", []), ("Let me think.", []), ("5 + 3 is 8", []), ("5 > 3", []), ("5 + 3 >= 8", []),
    ("5 + 3 ≠ 9", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "verdicts"), READ)
def test_equations_of_a_text(text: str, verdicts: list[bool | None]) -> None:
    assert list(stated(text)) == verdicts
    assert list(equations(text)) == [verdict for verdict in verdicts if verdict is not None]


def test_a_step_is_as_good_as_its_worst_equation() -> None:
    steps = ["1+1=2 and 2+2=5", "1+1=2", "so", "x = 2 and 1+1=2", "2x = 5"]
    assert check_steps("", steps, right=2.0, wrong=-1.0, silent=0.0) == [-1.0, 2.0, 0.0, 2.0, 0.0]
