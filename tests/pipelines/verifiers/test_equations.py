from __future__ import annotations

import pytest

from pipelines.verifiers.equations import check_steps, equations


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("She sold 48/2 = <<48/2=24>>24 clips", [True]),  # the first stops at <<, the annotation is read
        ("16 - 3 - 4 = 9, then 9 * 2 = 19", [True, False]),
        ("$1.50 x 4 = $6.00", [True]),
        ("1,000 + 24 = 1,024", [True]),
        ("10 / 3 = 3.33 and 10 / 3 = 3.34", [True, False]),
        ("(2 + 3) * 4 = 20", [True]),
        ("5 / 0 = 1", []),
        ("x = 4, and 7 = 7", []),
        ("9**9**9 = 1", []),
        ("", []),
    ],
)
def test_equations_of_a_text(text, verdicts):
    assert list(equations(text)) == verdicts


def test_a_step_is_as_good_as_its_worst_equation():
    assert check_steps("", ["1+1=2 and 2+2=5", "1+1=2", "so"], right=2.0, wrong=-1.0, silent=0.0) == [-1.0, 2.0, 0.0]
