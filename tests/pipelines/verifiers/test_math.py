r"""Verifier `math`: pairs that are equal, pairs that are not, and where in a text the answer stands."""

from __future__ import annotations

import pytest

from pipelines.verifiers.math_answer import verify

#: (what the box holds, the reference): one line a kind
EQUAL = [
    # e-notation and powers of ten
    ("1.5e-3", "0.0015"), ("1.5E-3", "0.0015"), ("5e-3", "0.005"), ("1e-05", "0.00001"), ("2E6", "2000000"),
    ("1.5 \\times 10^{-3}", "1.5e-3"), ("1.5*10^-3", "0.0015"), ("1.5x10^{-3}", "0.0015"), ("1.5·10⁻³", "0.0015"),
    ("6.02 × 10^23", "6.02e23"), ("2e-3", "2e - 3"), ("10^{-5}", "1e-5"), ("3e8", "3 \\cdot 10^8"),
    # small, large and rounded numbers
    ("6.63 \\times 10^{-34}", "6.63e-34"), ("0.333333", "\\frac{1}{3}"), ("0.083333", "\\frac{1}{12}"),
    ("\\frac{1}{2004!}", "\\frac{1}{2004!}"), ("1000000000000000000001", "10^{21}+1"), ("2\\sqrt{2}", "\\sqrt{8}"),
    ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"), ("6.02 \\times 10^{23}", "602000000000000000000000"),
    # punctuation
    ("5.", "5"), ("1,234.", "1234"), ("5,", "5"), ("\\frac{1}{2}.", "0.5"), ("5;", "5"), ("5 .", "5"), ("x=5.", "5"),
    # spaces and separators of thousands
    ("12\\,345", "12345"), ("12\\;345", "12345"), ("12\\ 345", "12345"), ("12~345", "12345"), ("12{,}345", "12345"),
    ("12,\\!345", "12345"), ("12 345", "12345"), ("12\u2009345", "12345"), ("12\u202f345", "12345"),
    ("1\\,234\\,567", "1234567"), ("12'345", "12345"), ("3{,}14", "3.14"), ("5\\,\\text{cm}", "5"),
    ("1,234,567", "1234567"),
    ("12345", "12,345"), ("12345", "12\\,345"), ("\\ 5\\ ", "5"), ("5\\quad", "5"), ("(1,\\,2)", "(1,2)"),
    # unicode
    ("10 - 2√5", "10 - 2\\sqrt{5}"), ("√(2+x)", "\\sqrt{2+x}"), ("∛2", "\\sqrt[3]{2}"), ("½", "\\frac{1}{2}"),
    ("⅔", "2/3"),
    ("1½", "1.5"), ("x²+1", "x^2+1"), ("2π", "2\\pi"), ("∞", "\\infty"), ("−5", "-5"), ("–5", "-5"), ("3×4", "12"),
    ("x ≤ 5", "x \\leq 5"), ("(−∞, 3) ∪ [5, ∞)", "(-\\infty,3)\\cup[5,\\infty)"), ("90°", "90"), ("５", "5"),
    ("x₁", "x_1"),
    ("±2021", "\\pm 2021"), ("√3/2", "\\frac{\\sqrt{3}}{2}"), ("6÷4", "1.5"), ("2⋅3", "6"), ("2¹⁰", "1024"),
    ("3⁄4", "0.75"),
    # as programs write it
    ("2*pi", "2\\pi"), ("3pi/4", "\\frac{3\\pi}{4}"), ("sqrt(5)", "\\sqrt{5}"), ("sin(x)", "\\sin x"),
    ("exp(-t)", "e^{-t}"),
    ("np.arcsin(10/13)", "\\arcsin(\\frac{10}{13})"), ("-1./3", "-\\frac{1}{3}"), ("2*x**2", "2x^2"),
    # boxes in boxes, styles and delimiters
    ("\\boxed{5}", "5"), ("\\fbox{5}", "5"), ("$5$", "5"), ("\\(5\\)", "5"), ("\\text{13}", "13"),
    ("\\mathbf{13}", "13"),
    ("\\textbf{13}", "13"), ("\\displaystyle 5", "5"), ("\\boldsymbol{5}", "5"), ("\\mathrm{e}", "e"),
    ("\\left(1,2\\right)", "(1,2)"), ("\\bigl(1,2\\bigr)", "(1,2)"), ("\\Big(1, 2\\Big)", "(1,2)"),
    ("\\left\\{1,2\\right\\}", "\\{1,2\\}"), ("\\left[0,1\\right)", "[0,1)"),
    # fractions and mixed numbers
    ("\\dfrac{1}{2}", "\\frac12"), ("\\tfrac{1}{2}", "0.5"), ("\\frac 1 2", "1/2"), ("1/2", "0.5"),
    ("3\\frac{1}{2}", "3.5"),
    ("3 1/2", "3.5"), ("3 \\frac{1}{2}", "\\frac{7}{2}"), ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("0.\\overline{3}", "1/3"),
    ("0.1\\overline{6}", "\\frac{1}{6}"), (".5", "0.5"), ("0.50", "0.5"), ("004", "4"), ("+5", "5"),
    ("2^{-1}", "0.5"),
    # units, money, percent, degrees
    ("5 \\text{ cm}", "5"), ("5\\text{ cm}^2", "5"), ("5 \\text{ cm}^{2}", "5"), ("5 \\mathrm{~cm}", "5"),
    ("5 meters", "5"),
    ("5 dollars", "5"), ("3 m/s^2", "3"), ("\\$18.90", "18.90"), ("18.90", "\\$18.90"), ("€5", "5"), ("$\\$5$", "5"),
    ("28\\%", "28"), ("28%", "0.28"), ("28 percent", "28\\%"), ("28.5", "28.5\\%"), ("90^\\circ", "90"),
    ("90^{\\circ}", "90°"),
    ("90 degrees", "90^\\circ"), ("25^\\circ\\text{C}", "25"), ("\\frac{3}{4}\\text{ hours}", "0.75"),
    ("72 square feet", "72"),
    # names of values
    ("x=5", "5"), ("5", "x=5"), ("x = 5", "x=5"), ("= 5", "5"), ("x \\in [0,1]", "[0,1]"), ("2x-y+3=0", "y=2x+3"),
    ("f(x) = x+1", "x+1"), ("a+b=2+3=5", "5"),
    # several values
    ("3, 5", "5,3"), ("\\{3,5\\}", "3,5"), ("3 \\text{ and } 5", "3,5"), ("3 or 5", "3,5"),
    ("x=2 \\text{ or } x=3", "2,3"),
    ("(1,2)", "(1,2)"), ("(1, 2, 3)", "(1,2,3)"), ("1, 2, \\ldots, n", "1,2,\\dots,n"),
    ("1, 2, ..., n", "1, 2, \\ldots, n"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}"),
    ("\\begin{bmatrix}0.5\\\\3\\end{bmatrix}", "\\begin{bmatrix}\\frac12\\\\3\\end{bmatrix}"),
    # text
    ("\\text{Evelyn}", "Evelyn"), ("no solution", "\\text{No solution}"), ("\\text{(B)}", "B"), ("(B)", "\\text{B}"),
    ("B.", "B"),
    ("\\text{yes}", "Yes"),
    # expressions
    ("x^2+2x+1", "(x+1)^2"), ("\\sec^2(y)", "\\tan^2(y)+1"), ("\\log_2 8", "3"), ("5!", "120"),
    ("\\binom{5}{2}", "10"),
    ("101_2", "101_{2}"), ("101_2", "5_{10}"), ("101", "101_2"), ("\\sqrt{2}\\sqrt{3}-\\sqrt{6}", "0"),
    ("3+4i", "4i+3"), ("x^2", "x**2"),
]  # fmt: skip

DIFFERENT = [
    ("5.63 \\times 10^{-34}", "6.63 \\times 10^{-34}"), ("-6.63e-34", "6.63e-34"), ("9.1e-31", "1.67e-27"),
    ("0", "6.63e-34"),
    ("6.63e-34", "0"), ("\\frac{1}{2006!}", "\\frac{1}{2004!}"), ("2-\\frac{1}{2^{98}}", "2-\\frac{1}{2^{99}}"),
    ("1e-10", "2e-10"), ("\\frac{1}{10^{20}}", "\\frac{1}{10^{21}}"), ("2^{-100}", "2^{-101}"),
    ("h=5.63e-34", "h=6.63e-34"),
    ("(1, 5.63e-34)", "(1, 6.63e-34)"), ("\\{0, 1e-20\\}", "\\{0, 2e-20\\}"), ("[0, 1e-20]", "[0, 2e-20]"),
    ("x\\cdot 10^{-20}", "2x \\cdot 10^{-20}"), ("0.33", "\\frac{1}{3}"), ("3.14", "\\pi"), ("0.000123", "0.000124"),
    ("10^{21}", "10^{21}+1"), ("\\sqrt{2}", "1.41"), ("1.5e-3", "1.5e-4"), ("1.5e3", "0.0015"),
    ("2", "1, 2, \\ldots, n"), ("n", "1, 2, \\ldots, n"), ("1, 2, n", "1, 2, \\ldots, n"),
    ("1,2,\\dots,m", "1,2,\\dots,n"),
    ("1, 2, ..., 10", "1, 2, \\ldots, 20"), ("3", "1+2+\\cdots+n"),
    ("12\\,345", "357"), ("12\\,345", "12"), ("12\\,345", "345"), ("1 2 3", "6"), ("1,23", "123"), ("5.1", "51"),
    ("1{,}5", "15"),
    ("10 - 2√5", "10 + 2\\sqrt{5}"), ("√5", "5"), ("½", "2"), ("1½", "0.5"), ("x²", "2x"), ("2π", "2"), ("∞", "0"),
    ("0<x<12.5", "(0,12.5)"), ("(1,2)", "[1,2]"), ("[0,1)", "(0,1]"), ("(1,2)", "(2,1)"), ("x > 5", "x \\ge 5"),
    ("x>5", "x<5"),
    ("n=1,2,3", "n=2,3,4"), ("D=(0,1.5)", "D=(0,1)"), ("2021", "\\pm 2021"), ("1:00", "12:00"), ("4\\sqrt{2}", "4"),
    ("1728", "1331 and 1728"), ("3", "3, 5"), ("3,5,7", "3,5"), ("x=4", "x=5"), ("y=5", "x=5"), ("2xy", "2"),
    ("2x", "2"),
    ("\\text{Carla}", "\\text{Evelyn}"), ("A", "B"), ("\\text{no}", "\\text{yes}"), ("", "5"), (".", "5"),
    ("\\ ", "5"),
    ("3\\frac{1}{2}", "\\frac{3}{2}"), ("3 1/2", "1.5"), ("28\\%", "29"), ("0.28", "28"), ("5 \\text{ cm}", "6"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"), ("x^2+1", "x^2+2"),
    ("\\sin x", "\\cos x"),
    ("\\hbar\\omega(v+1/2)-5", "\\hbar\\omega(v+1/2)-6"), ("5e", "5"), ("40_8", "40_9"), ("101_2", "101_3"),
    ("e", "2.71"), ("1e3", "e^3"), ("\\frac{1}{3}", "3"), ("-5", "5"), ("$", "5"), ("5 or 6", "5"), ("n!", "n"),
]  # fmt: skip


@pytest.mark.parametrize(("boxed", "answer"), EQUAL)
def test_equal_answers(boxed: str, answer: str) -> None:
    assert verify(f"So it is $\\boxed{{{boxed}}}$.", answer).correct


@pytest.mark.parametrize(("boxed", "answer"), DIFFERENT)
def test_different_answers(boxed: str, answer: str) -> None:
    assert not verify(f"So it is $\\boxed{{{boxed}}}$.", answer).correct


#: (text, reference, whether it is right)
PLACES = [
    ("so $\\boxed{\\frac{3}{4}}$.", "0.75", True),
    ("\\boxed{1} no: \\boxed{2}", "2", True),
    ("\\boxed{2} no: \\boxed{1}", "2", False),
    ("so \\boxed{840}. **Final Answer** \\boxed{840}", "840", True),
    ("\\boxed{5} hmm, so finally \\boxed{}", "5", False),
    ("I get \\boxed{5}. Wait, check again: \\boxed{6", "5", False),
    ("I get \\boxed{5}. Wait, check again: \\boxed{6", "6", False),
    ("I get \\boxed{5}. Wait: \\boxed{\\frac{6}{7}", "5", False),
    ("\\boxed{\\boxed{5}}", "5", True),
    ("\\boxed{x = \\fbox{5}}", "5", True),
    ("\\boxed {5}", "5", True),
    ("\\boxed  {\\frac{1}{2}}", "0.5", True),
    ("\\fbox{5}", "5", True),
    ("\\fbox {5}, not \\boxed{6}", "6", True),
    ("$\\boxed 5$", "5", True),
    ("\\boxed\\frac{1}{2}$", "0.5", True),
    ("$\\boxed{\\{1, 2\\}}$ and {", "\\{1,2\\}", True),
    ("{ \\boxed{5} }", "5", True),
    ("} \\boxed{5}", "5", True),
    ("$$\\boxed{5\n}$$", "5", True),
    ("<think>maybe \\boxed{6}</think> The final answer is 5.", "6", False),
    ("<think>maybe \\boxed{6}</think> The final answer is 5.", "5", True),
    ("<think>maybe \\boxed{6}, so", "6", False),
    ("maybe \\boxed{6}</think>\\boxed{5}", "5", True),
    ("<answer>5</answer>", "5", True),
    ("<answer>\\boxed{5}</answer>", "5", True),
    ("6 <answer> $\\frac{1}{2}$", "0.5", True),
    ("It is $x = 5$", "5", True),
    ("The sum is 489. The number is **73**.", "73", True),
    ("The sum is 489. The number is **73**.", "489", False),
    ("Final Answer: the last two digits of \\(1999^{1998^{1997}}\\) are:\n\\[Answer: 07\\]", "7", True),
    ("3x + 4y + 14=0", "3*x-1*y+13=0", False),
    ("3x + 4y + 14=0", "14", False),
    ("Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "1/2", True),
    ("The answer is 1/2.", "0.5", True),
    ("The answer is 1.5e-3.", "0.0015", True),
    ("The answer is 2√5", "2\\sqrt{5}", True),
    ("The answer is \\(2\\sqrt{5}\\).", "\\sqrt{20}", True),
    ("The answer is \\[2\\sqrt{5}\\]", "\\sqrt{20}", True),
    ("The answers are $3$ and $5$.", "3,5", True),
    ("The answers are $3$ and $5$.", "5", False),
    ("The answer is x = 5", "5", True),
    ("Answer: 1,234", "1234", True),
    ("Answer:\n\n12", "12", True),
    ("The answer is 5, since 3 + 4 = 7.", "5", True),
    ("The answer is Evelyn.", "\\text{Evelyn}", True),
    ("The answer is Carla.", "\\text{Evelyn}", False),
    ("The answer is 12 apples.", "12", True),
    ("We have $x=3$, so there are 5 apples.", "5", True),
    ("\\frac{3}{4}", "0.75", True),
    ("x^2+1", "1+x^2", True),
    ("... = 70\n#### 70", "70", True),
    ("70", "He has 30 + 40 = 70.\n#### 70", True),
    ("71", "He has 30 + 40 = 70.\n#### 70", False),
    ("so \\boxed{1.6}", "Start: $s=\\frac{45}{3600}=\\boxed{1.6} \\mathrm{~cm}$", True),
    ("$\\boxed{3, 5}$", '["$5$", "$3$"]', True),
    ("$\\boxed{3}$", '["$5$", "$3$"]', False),
]


@pytest.mark.parametrize(("text", "answer", "correct"), PLACES)
def test_where_the_answer_stands(text: str, answer: str, correct: bool) -> None:
    assert verify(text, answer).correct is correct


def test_what_holds_no_answer_is_unparseable_and_an_empty_reference_the_datas_fault() -> None:
    for text in ("no idea", "", "\\boxed{}", "<think>\\boxed{5}", "<answer></answer>"):
        assert verify(text, "5").unparseable, text
    for answer in ("", " ", "$$", "\\boxed{}", "\\boxed{5"):
        with pytest.raises(ValueError, match="cannot be read as mathematics"):
            verify("5", answer)


def test_reasoning_is_kept_or_required_where_told() -> None:
    assert verify("<think>\\boxed{5}", "5", reasoning="keep").correct
    assert verify("\\boxed{5}", "5").correct
    assert verify("\\boxed{5}", "5", reasoning="required").unparseable
    assert verify("hm</think>\\boxed{5}", "5", reasoning="required").correct
    with pytest.raises(ValueError, match="choose skip, required or keep"):
        verify("5", "5", reasoning="drop")  # type: ignore[arg-type]


def test_a_huge_answer_is_compared_as_text() -> None:
    assert not verify("\\boxed{" + "9" * 100_000 + "}", "9").correct
