r"""Verifier `choice`: the letter of a multiple-choice answer.

The places are those of the field's graders (lm-evaluation-harness, simple-evals and its words for "answer" in other
languages); what counts as a letter there is stricter: "a multiple" and "i don't" name none, nor does `\boxed{a+b}`.
Every pattern takes bounded steps from a fixed word, so a megabyte of newlines costs one pass. Stdlib only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from pipelines.verifiers.answers import Reasoning, answer_text, last_box, plain_typography
from pipelines.verifiers.base import Verdict

# Around a letter: Markdown, quotes, brackets, LaTeX. White space was made single before.
_OPEN = r"(?:[ *_\"'`(\[{<$「【《]|\\\(|\\\[|\\(?:boxed|fbox|text|textbf|mathrm|mathbf|textit|mbox) ?\{){0,8}"
_CLOSE = r"(?:\*{1,2}|_{1,2}|\\?[)\]]|[\"'`}>$」】》]){0,8}"
# Where the letter is part of a word or of a formula.
_NO_PART = (
    r"(?![A-Za-zÀ-ɏ0-9_\u0600-\u06ff\u0980-\u09ff]|'[A-Za-z]|-[A-Za-z0-9]| ?[+^=>|]| ?<(?![/|a-z])| - ?\d"
    r"| ?\\(?!text|q?quad)[A-Za-z]| ?\*(?!\*) ?\w| ?/ ?(?![A-Za-z](?![A-Za-z])))"
)
# A and I are words too, and letters only where no other word of their clause follows.
_CONNECTING = "because|since|as|for|by|but|due|given|which|where|with|is|was|and|or|so|if|per|from|at|in"
_NO_WORD = rf"(?! (?!(?:{_CONNECTING})\b)[A-Za-z\d'])"
_AND = r" ?,? ?(?:\\text\{ ?)?(?:and|or|und|oder|et|ou|y|o|e|и|или|或|和|、|&|/)(?: ?\})? ?"
_ALONE = r"(?=[ .;:!?。)\]}*_\"'$]{0,8}(?:\n|$))"
#: "answer" and its relatives in the languages of multilingual benchmarks
_ANSWER = (
    "answers?|ans|choices?|options?|letter|antwort|lösung|réponse|respuesta|resposta|risposta|opción|opção|opzione|alternativa"
    "|antwoord|svar|odpowiedź|odpověď|ответ|відповідь|cevap|yanıt|đáp án|jawaban|jibu|idahun|ìdáhùn|απάντηση|תשובה"
    "|الإجابة|الجواب|إجابة|उत्तर|উত্তর|คำตอบ|答案|答え|答|正解|解答|回答|選択肢|选项|選項|정답|답변|답"
)
_QUALIFIED = (
    r"(?: (?:to (?:this|the) (?:question|problem)|choice|option|letter|correct[aeo]?|corret[ao]|corrett[ao]|exacte?"
    r"|exacta|finale?|الصحيحة|النهائية)){0,2}"
)
_IS = (
    r"(?: ?(?:[:=→⇒ঃ]|->|-(?= ))| (?:is|was|would be|should be|must be|will be|has to be|seems to be|appears to be|ist"
    r"|lautet|est|es|é|è|هي|هو|है|là|adalah|jest|är|är|to)(?= |:)| ?(?:是|为|為|は|은|는|应为|應為|应该是|應該是)){1,3}"
)
_NOUN = (
    r"(?: ?(?:option|choice|letter|answer|opción|opção|opzione|alternativa|(?:a )?letra|lettre|lettera|la|le|the|die"
    r"|это|选项|選項|donc|also|daher|quindi|portanto|entonces|definitely|clearly|therefore|thus|indeed|likely|probably|obviously|simply)"
    r"(?= |\(|\*|[A-Za-z]$|[:A-Z])){0,3}"
)
_CHOSEN = (
    r"(?:\b(?:choose|chose|pick|select|go with|going with)(?: (?:option|choice|answer|letter|the)){0,2}"
    r"|(?:故选|应选|应选择|选择|选|故選|應選|選擇|選) ?(?:项|項)?:?)"
)
_RIGHT = (
    r"(?: (?:is|would be|must be) (?:the |my )?(?:only |most )?"
    r"(?:(?:correct|right|best|final|appropriate) (?:answer|option|choice|one)\b|(?:answer|choice)\b"
    r"|(?:correct|right)(?=[.,!;]|$|\n))"
    r"| ist (?:richtig|korrekt)| est (?:correcte?|la bonne)| es (?:la )?correcta| ?(?:是)?(?:正确|正確))"
)
_HTML = re.compile(r"</?(?:b|i|u|em|strong)>", re.IGNORECASE)
#: first letters of other alphabets that simple-evals reads
_ALPHABETS = dict(zip("أبجدঅবডঢ", "ABCDABCD", strict=True))


def verify(text: str, answer: str, *, letters: str = "ABCDEFGHIJ", reasoning: Reasoning = "skip") -> Verdict:
    r"""Correct where the letter that the text settles on is the reference's.

    The text's letter is, in this order: the last `\boxed{C}`; the last "answer is (C)", "Answer: C", "C is the correct
    option" or the like, in a score of languages; the line that is a letter or begins with a label ("C. Paris"), where
    there is one such letter; a last line that is a letter; the last "(C)". An answer that names two letters ("A or B")
    names none.

    letters: those that can be an answer. reasoning: what is read; skip: what follows the reasoning, required: the same,
    and nothing where the reasoning has no end, keep: the whole text. Raises ValueError for a reference without a
    letter.

    >>> verify("B is tempting, but the answer is **(c)**.", "C").correct
    True
    """
    expected = chosen_letter(answer, letters=letters, reasoning="keep")
    if expected is None:
        raise ValueError(f"the reference answer {answer[:80]!r} names none of the letters {letters}")
    found = chosen_letter(text, letters=letters, reasoning=reasoning)
    if found is None:
        return Verdict(correct=False, unparseable=True)
    return Verdict(correct=found == expected, extracted=found)


def chosen_letter(text: str, *, letters: str, reasoning: Reasoning = "skip") -> str | None:
    """The letter, upper case; None where the text settles on none."""
    text = _single_spaced(answer_text(text, reasoning))
    patterns = _patterns(letters)
    if (box := last_box(text)) is not None:
        if not box:
            return None  # cut off, or left open
        if found := patterns.boxed.match(box):
            return _letter(found)
    if found := _last(patterns.declared, text):
        return _letter(found)
    lines = [_letter(match) for match in patterns.line.finditer(text)]
    if len(set(lines)) == 1:
        return lines[0]
    found = patterns.alone.fullmatch(text.rpartition("\n")[2]) or _last(patterns.bracketed, text)
    return _letter(found) if found else None


def _single_spaced(text: str) -> str:
    """Without empty lines, surplus spaces and HTML's styles, full-width forms as ASCII."""
    lines = (" ".join(line.split()) for line in plain_typography(_HTML.sub("", text)).splitlines())
    return "\n".join(line for line in lines if line)


def _letter(found: re.Match[str]) -> str | None:
    """The letter of a match; None where it names a second one."""
    groups = found.groupdict()
    letter = next(groups[name] for name in ("letter", "before") if groups.get(name))
    return None if groups.get("other") else _ALPHABETS.get(letter, letter.upper())


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


@dataclass(frozen=True)
class _Patterns:
    """Each has the group `letter` (declared: or `before`), and may have `other`, a second letter."""

    boxed: re.Pattern[str]
    declared: re.Pattern[str]
    line: re.Pattern[str]
    alone: re.Pattern[str]
    bracketed: re.Pattern[str]


@cache
def _patterns(letters: str) -> _Patterns:
    foreign = "".join(sign for sign, letter in _ALPHABETS.items() if letter in letters.upper())
    some = f"[{re.escape(letters)}{foreign}]"
    word = rf"(?:(?![AI]){some}|(?=[AI]){some}{_NO_WORD})"
    second = rf"(?P<other>{_AND}{_OPEN}{word}{_CLOSE}{_NO_PART}|, ?{_OPEN}{some}{_CLOSE}{_NO_PART}{_ALONE})?"
    label = rf"{_OPEN}(?P<letter>{word}){_CLOSE}{_NO_PART}{second}"
    noun = r"(?:(?:the )?(?:(?:correct|final) )?(?:answer|option|choice)(?: is|:)? )?"
    stop = r"(?=[*_\"'`]{0,4}[.):\]])[*_)\]}.:\"'`]{1,6}(?= |$)"
    words = rf"(?:{_ANSWER}){_QUALIFIED}[*_]{{0,2}}{_IS}[*_]{{0,2}}{_NOUN}:?\n?{_NOUN}|answer ?(?=\()|{_CHOSEN}"
    right = rf"(?<![\w(\\])(?:\(|\*\*)?(?P<before>(?-i:{some})){_CLOSE}{_RIGHT}"
    question = rf"A: ?{_OPEN}{some}{_CLOSE}(?:[.,:]|$)"  # the A of question and answer
    return _Patterns(
        boxed=re.compile(rf"{_OPEN}{noun}{label}", re.IGNORECASE),
        declared=re.compile(rf"(?<![A-Za-z])(?:{words}){label}|{right}", re.IGNORECASE),
        line=re.compile(
            rf"^{_OPEN}(?:(?:option|choice) )?{_OPEN}(?!I\. |I\) |C\) \d|{question})(?P<letter>{some})"
            rf"(?:{stop}|{_CLOSE}[.!]?{_CLOSE}$)",
            re.IGNORECASE | re.MULTILINE,
        ),
        alone=re.compile(
            rf"{_OPEN}(?:(?:option|choice|A:) )?{_OPEN}(?P<letter>{some}){_CLOSE}[.!]?{_CLOSE}", re.IGNORECASE
        ),
        bracketed=re.compile(rf"(?<![\w\\])(?!\(c\) \d)(?!\(i\))\((?P<letter>{some})\)", re.IGNORECASE),
    )
