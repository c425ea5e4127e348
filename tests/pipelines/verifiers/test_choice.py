"""Verifier `choice`: what names a letter, and what only looks as if it did."""

from __future__ import annotations

import pytest

from pipelines.verifiers.choice import chosen_letter, verify

NAMED = [
    # forms of the label
    ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("**B**", "B"), ("*B*", "B"), ("`B`", "B"),
    ('"B"', "B"),
    ("[B]", "B"), ("{B}", "B"), ("（B）", "B"), ("Ｂ", "B"), ("$B$", "B"), ("**(B)**", "B"), ("b. 4", "B"),
    ("B. Paris", "B"),
    ("B) Paris", "B"), ("(B) Paris", "B"), ("B: Paris", "B"), ("**B.** Paris", "B"), ("Option B", "B"), ("A", "A"),
    ("I", "I"),
    ("(A) a cat", "A"), ("A. A cat", "A"), ("B\nBecause it is so.", "B"), ("B. Paris\n\nIt is the capital.", "B"),
    # declared
    ("The answer is B", "B"), ("The answer is (B).", "B"), ("the answer is: b", "B"), ("Answer: B", "B"),
    ("Answer:B", "B"),
    ("ANSWER: B", "B"), ("**Answer:** B", "B"), ("**Answer**: **B**", "B"), ("Answer:\n\nB", "B"),
    ("### Answer\nB", "B"),
    ("Final answer: B", "B"), ("Final Answer: The final answer is (B). I hope it is correct.", "B"),
    ("Answer: $B$", "B"),
    ("Answer: $B", "B"), ("Answer: \\text{B}", "B"), ("Answer = B", "B"), ("Answer - B", "B"), ("Answer -> B", "B"),
    ("Answer (B)", "B"), ("The correct answer is option B.", "B"), ("The correct option is B.", "B"),
    ("The best choice is B", "B"),
    ("The correct answer choice is (B)", "B"), ("The answer to this question is B.", "B"),
    ("The answer should be B", "B"),
    ("The answer must be B!", "B"), ("The answer seems to be B.", "B"), ("The answer is therefore B.", "B"),
    ("Answer: B. Paris", "B"),
    ("Answer: B) Paris", "B"), ("Answer: B, because", "B"), ("The answer is **B**: Paris", "B"),
    ("So I choose B.", "B"),
    ("I'd go with (B)", "B"), ("I would pick option B.", "B"), ("B is the correct answer.", "B"),
    ("(B) is the right choice", "B"),
    ("Option B is correct.", "B"), ("**B** is the answer", "B"), ("The answer is A because it is", "A"),
    ("Answer: A", "A"),
    ("The answer is A, a cat.", "A"), ("The answer is a.", "A"), ("The answer is C because I computed it.", "C"),
    ("Ans: B", "B"),
    ("The answer is I.", "I"), ("The answer is B because a car moves.", "B"), ("Answer: A is right", "A"),
    ("Answer: 'B'", "B"),
    ("The answer is <b>B</b>", "B"), ("<answer>B</answer>", "B"), ("<answer> (b) </answer>", "B"),
    ("<answer>B. Paris</answer>", "B"),
    ("A is wrong. <answer>The answer is B", "B"), ("Answer: B<|im_end|>", "B"), ("Answer: B</s>", "B"),
    # boxed
    ("\\boxed{B}", "B"), ("\\boxed{\\text{B}}", "B"), ("\\boxed{(B)}", "B"), ("\\boxed{\\textbf{(B)}}", "B"),
    ("\\fbox{B}", "B"),
    ("$\\boxed{\\mathrm{B}}$", "B"), ("\\boxed{B.}", "B"), ("\\boxed{B) 4}", "B"),
    ("\\boxed{E: A polygenic risk score}", "E"),
    ("\\boxed{\\textbf{(B)}\\ 4}", "B"), ("\\boxed{\\text{(B) } 4}", "B"), ("\\boxed{Option B}", "B"),
    ("\\boxed{Answer: B}", "B"),
    ("\\boxed{C} ... \\boxed{\\text{E}}", "E"), ("\\boxed {B}", "B"), ("the answer is \\boxed{\\text{C}}", "C"),
    ("\\boxed{42}. So the answer is C.", "C"), ("\\boxed{b}", "B"), ("\\boxed{A}", "A"),
    ("\\boxed{B \\text{ is right}}", "B"),
    # other languages
    ("答案：C", "C"), ("答案是C", "C"), ("答案为C。", "C"), ("正确答案是：C", "C"),
    ("因此选C。", "C"), ("故选 C", "C"), ("应选择C", "C"),
    ("选项C正确", "C"), ("正确选项是C", "C"), ("答案是（C）选项", "C"),
    ("答え：C", "C"), ("答えはCです", "C"), ("正解はC", "C"),
    ("정답: C", "C"), ("정답은 C입니다", "C"), ("Antwort: C", "C"), ("Die richtige Antwort ist C.", "C"),
    ("Die Antwort lautet C", "C"),
    ("Réponse : C", "C"), ("Réponse\u00a0: C", "C"), ("La bonne réponse est la C.", "C"),
    ("La réponse correcte est (C)", "C"),
    ("Respuesta: C", "C"), ("La respuesta correcta es la C.", "C"), ("La opción correcta es C", "C"),
    ("Resposta: C", "C"),
    ("A resposta correta é C", "C"), ("A alternativa correta é a letra C", "C"), ("Risposta: C", "C"),
    ("La risposta corretta è C", "C"),
    ("Ответ: C", "C"), ("Правильный ответ — C", "C"), ("Cevap: C", "C"), ("Đáp án: C", "C"), ("Jawaban: C", "C"),
    ("Antwoord: C", "C"),
    ("Odpowiedź: C", "C"), ("उत्तर: C", "C"), ("উত্তর: C", "C"), ("الإجابة: C", "C"), ("الإجابة الصحيحة هي: ج", "C"),
    ("คำตอบ: C", "C"),
    ("答案：**C**", "C"), ("答案应该是C", "C"), ("La réponse est donc C.", "C"), ("L'option C est correcte", "C"),
    ("La respuesta correcta es la opción C", "C"), ("Answer: \\(C\\)", "C"), ("**Final Answer: C**", "C"),
    ("C is my answer", "C"),
    # which one counts
    ("A is wrong and B is wrong. The answer is (D).", "D"), ("Answer: **B**\nbecause (A) is false", "B"),
    ("Option A.\n\nOption C.", "C"),
    ("I considered A.\n\nOption C.", "C"), ("It must be (A), or rather (B), I think", "B"),
    ("ANSWER IS D. A is incorrect.", "D"),
    ("The answer is B. Note that A is a common distractor.", "B"), ("The answer is A? No, the answer is B.", "B"),
    ("The calculated answer is 11.\n\nAnswer seems to be A.\n\nAnswer: A", "A"),
    ("A. cat\nB. dog\nC. cow\nAnswer: C", "C"),
    ("A. cat\nB. dog\n\nB", "B"), ("The answer is a multiple of 3.\n(B)", "B"), ("The answer is not A.\nB", "B"),
    ("(B)\nnot (A)", "B"),
    ("The answer is B, C is wrong", "B"), ("Q: Which?\nA: B", "B"),
    ("<think>The answer is A</think>The answer is B", "B"), ("<think>\\boxed{A}</think>B", "B"),
]  # fmt: skip

UNNAMED = [
    "", "no idea", "A cat and a dog", "The answer is apple", "The answer is a multiple of 3.", "The answer is a cat",
    "answer: i don't know", "Answer: I think so", "The answer is I'm not sure", "Answer: A good one is hard to find",
    "answer: a lot",
    "\\boxed{a+b}", "\\boxed{42}", "\\boxed{A cat}", "\\boxed{b^2}", "\\boxed{C_1}", "\\boxed{a = 5}",
    "\\boxed{A \\cup B}",
    "\\boxed{AB}", "\\boxed{A, B}", "\\boxed{A \\text{ or } B}", "\\boxed{d/dx}", "\\boxed{B", "\\boxed{}",
    "\\boxed{Bob}",
    "The answer is A or B.", "Answer: A, B", "Answer: A/B", "Answer: B and C",
    "The answer is A and B because both hold",
    "The answer is b + 1", "The answer is c = 5", "The answer is B-12", "answer: e^x", "The answer is d'Artagnan",
    "The answer is not B", "The answer isn't B", "A. cat\nB. dog\nC. cow", "a) one\nb) two", "f(a) = 2", "(i) first",
    "(c) 2024 me",
    "<think>The answer is B", "<answer></answer>", "La respuesta es a veces", "the answer is 5", "Grade: A+",
    "The answer is A+",
    "x" + "\n" * 700 + "y",
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), NAMED)
def test_what_names_a_letter(text: str, letter: str) -> None:
    assert chosen_letter(text, letters="ABCDEFGHIJ") == letter


@pytest.mark.parametrize("text", UNNAMED)
def test_what_names_none(text: str) -> None:
    assert chosen_letter(text, letters="ABCDEFGHIJ") is None


def test_verdicts() -> None:
    assert verify("The answer is B", "(B)").correct
    assert verify("The answer is B", "b").correct
    assert verify("The answer is B", "B. Paris").correct
    assert not verify("The answer is B", "C").correct
    assert not verify("\\boxed{a+b}", "A").correct
    assert verify("who knows", "C").unparseable
    assert verify("<think>Answer: C", "C", reasoning="keep").correct
    for answer in ("42", "A cat", "A or B", ""):
        with pytest.raises(ValueError, match="names none of the letters"):
            verify("B", answer)


def test_other_letters() -> None:
    assert verify("Answer: N", "N", letters="NY").correct
    assert verify("Answer: K", "K", letters="ABCDEFGHIJKL").correct
    assert verify("Answer: B", "A", letters="A").unparseable
