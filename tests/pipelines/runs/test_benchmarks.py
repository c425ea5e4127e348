"""Public benchmarks by their own field names: prompt, answer and verdict; judged as by the official scripts."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pass_ops.support.importing import load_object
from pipelines.engines.base import Sampling
from pipelines.options import ConfigError, build
from pipelines.prompts.stage import PromptSource, SourceOptionError, read_prompts
from pipelines.runs.benchmarks import BOXED, KINDS, Benchmark, as_benchmark
from pipelines.runs.evaluate import EvalOptions, EvaluationError
from pipelines.verifiers import VERIFIERS

HOPS = [["Ed Wood", ["A film.", " By Burton."]], ["Tim Burton", ["A director."]]]
#: kind -> a row of the public file, a right completion, a wrong one
ROWS = {
    "gsm8k": ({"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}, "So \\boxed{5}", "So \\boxed{6}"),
    "math500": (
        {"problem": "Convert.", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "unique_id": "test/807.json"},
        "\\boxed{(3, \\pi/2)}",
        "\\boxed{(3, \\pi)}",
    ),
    "aime": ({"problem": "Find xy.", "answer": "025"}, "\\boxed{25}", "\\boxed{26}"),
    "amc23": ({"problem": "m + n?", "answer": "142.0"}, "\\boxed{142}", "\\boxed{141}"),
    "minerva": (
        {"problem": "Diameter?", "solution": "Start with:\n\\[ s=\\boxed{1.6} \\mathrm{~cm} \\]"},
        "\\boxed{1.6}",
        "\\boxed{1.7}",
    ),
    "olympiad": ({"problem": "How many?", "answer": ["2"]}, "\\boxed{2}", "\\boxed{3}"),
    "hotpotqa": (
        {"_id": "5a8b", "question": "Who?", "answer": "Tim Burton", "type": "bridge", "context": HOPS},
        "He did.\nAnswer: tim burton.",
        "Answer: Ed Wood",
    ),
    "2wikimultihopqa": (
        {"_id": "8813", "type": "comparison", "question": "Same?", "context": HOPS, "answer": "yes", "evidences": []},
        "Answer: Yes",
        "Answer: yes it is",
    ),
    "musique": (
        {
            "id": "2hop__1/2", "question": "Who?", "answer": "Timothy Burton", "answer_aliases": ["Tim Burton"],
            "answerable": True,
            "paragraphs": [{"idx": 0, "title": "Ed Wood", "paragraph_text": "A film.", "is_supporting": True}],
        },
        "Answer: Tim Burton",
        "Answer: Burton",
    ),
}  # fmt: skip


def judged(kind: str, text: str, answer: str):
    judge = Benchmark(source="x", kind=kind).judge()
    assert judge is not None
    return load_object(VERIFIERS[judge[0]])(text, answer, **judge[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_in_its_public_form_is_asked_and_judged(kind, tmp_path):
    row, right, wrong = ROWS[kind]
    as_list = kind in ("hotpotqa", "2wikimultihopqa")  # their files are one JSON list
    file = tmp_path / ("dev.json" if as_list else "dev.jsonl")
    file.write_text(json.dumps([row] if as_list else row))
    (found,) = read_prompts(Benchmark(source=str(file), kind=kind).prompts())
    assert (row.get("problem") or row["question"]) in found["prompt"]
    assert judged(kind, right, found["answer"]).correct
    assert not judged(kind, wrong, found["answer"]).correct
    if "context" in row:
        assert "Ed Wood: A film. By Burton.\n\nTim Burton: A director." in found["prompt"]
        assert found["prompt_id"] == row["_id"]
    if kind == "musique":
        assert "Ed Wood: A film." in found["prompt"]
        assert json.loads(found["answer"]) == ["Timothy Burton", "Tim Burton"]


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"problem": "Find the sum.", "answer": "70", "id": "0"}, ["70", "070"]),
        ({"problem": "Find the angle.", "answer": "336^\\circ", "id": "4"}, ["336", "336^\\circ"]),
        ({"problem_idx": 1, "problem": "Find the sum.", "answer": 70, "problem_type": ["Algebra"]}, ["70", "70.0"]),
    ],
)
def test_aime_of_2025_is_read_as_its_lists_write_it(row, right, tmp_path):
    file = tmp_path / "aime25.jsonl"
    file.write_text(json.dumps(row))
    (found,) = read_prompts(Benchmark(source=str(file), kind="aime").prompts())
    assert all(judged("aime", f"So \\boxed{{{answer}}}.", found["answer"]).correct for answer in right)
    assert not judged("aime", "So \\boxed{71}.", found["answer"]).correct


def test_what_is_given_counts_instead_of_the_kinds():
    own = Benchmark(source="x", kind="hotpotqa", template="Q: {prompt}", columns={"prompt": "q"}, verifier="exact")
    assert own.prompts().template == "Q: {prompt}"
    assert own.prompts().columns == {"prompt_id": "_id", "prompt": "q", "answer": "answer"}
    assert own.judge() == ("exact", {})
    marked = Benchmark(source="x", kind="hotpotqa", verifier_options={"marker": "So:"})
    assert marked.judge() == ("squad", {"reward": "f1", "closed": True, "marker": "So:"})
    assert Benchmark(source="x", kind="aime").prompts().template == BOXED
    assert Benchmark(source="x", kind="aime", template="{prompt}").prompts().template == "{prompt}"


def test_a_part_of_named_prompts_is_the_first_of_them():
    named = PromptSource(source="x", ids=("c", "a", "b"))
    options = EvalOptions(benchmarks={"named": named, "all": PromptSource(source="x")}, between=2)
    assert options.asked("named", whole=False) == ("-2", PromptSource(source="x", ids=("c", "a")))
    assert options.asked("named", whole=True) == ("", named)
    assert options.asked("all", whole=False) == ("-2", PromptSource(source="x", limit=2))
    assert replace(options, between=3).asked("named", whole=False) == ("", named)


def test_token_statistics_of_an_evaluation_are_refused():
    with pytest.raises(EvaluationError, match="only training reads statistics"):
        EvalOptions(sampling=Sampling(token_statistics=4))


def test_without_kind_it_is_a_prompt_source_as_before():
    plain = PromptSource(source="x", columns={"prompt": "q"}, limit=3)
    assert as_benchmark(plain).prompts() == plain
    assert as_benchmark(plain).judge() is None
    assert EvalOptions(benchmarks={"a": plain}).asked("a", whole=True) == ("", plain)
    assert "aliases" not in json.dumps(plain.semantic_options())  # no field more in the fingerprint


def test_options_that_nothing_reads_and_unknown_kinds_are_refused():
    with pytest.raises(SourceOptionError, match="nothing would read them"):
        Benchmark(source="x", verifier_options={"marker": "A"})
    with pytest.raises(SourceOptionError, match="go together"):
        Benchmark(source="x", columns={"paragraphs": "context"})
    with pytest.raises(ConfigError, match=r"benchmarks\.a\.kind"):
        build(EvalOptions, {"benchmarks": {"a": {"source": "x", "kind": "gsm9k"}}}, where="x")


# -- the official scripts of the multi-hop data sets --------------------------------------------------------------


def normalize_answer(s: str) -> str:
    """hotpot_evaluate_v1.py, 2wikimultihop_evaluate_v1.1.py and MuSiQue's metrics/answer.py, all after SQuAD's."""
    exclude = set(string.punctuation)
    lower = "".join(ch for ch in s.lower() if ch not in exclude)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lower).split())


def hotpot_f1(prediction: str, truth: str) -> float:
    """f1_score of HotpotQA, which 2WikiMultihopQA copies."""
    found, wanted = normalize_answer(prediction), normalize_answer(truth)
    for one, other in ((found, wanted), (wanted, found)):
        if one in ("yes", "no", "noanswer") and one != other:
            return 0.0
    common = Counter(found.split()) & Counter(wanted.split())
    same = sum(common.values())
    if same == 0:
        return 0.0
    precision, recall = same / len(found.split()), same / len(wanted.split())
    return 2 * precision * recall / (precision + recall)


def musique_f1(prediction: str, truths: list[str]) -> float:
    """compute_f1 of MuSiQue, the best over the answer and its aliases."""

    def f1(truth: str) -> float:
        wanted, found = normalize_answer(truth).split(), normalize_answer(prediction).split()
        if not wanted or not found:
            return float(wanted == found)
        same = sum((Counter(wanted) & Counter(found)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(found), same / len(wanted)
        return 2 * precision * recall / (precision + recall)

    return max(map(f1, truths))


WORDS = ["yes", "no", "noanswer", "The", "a", "Eiffel", "Tower", "tower,", "1,984", "U.S.", "an", "Paris!", "-", "É"]


def drawn(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(1, 4)))


def test_exact_match_and_f1_are_those_of_the_official_scripts():
    generator = random.Random(0)
    compared = 0
    for _ in range(4000):
        prediction, truths = drawn(generator), [drawn(generator) for _ in range(3)]
        if not all(map(normalize_answer, [prediction, *truths])):
            continue  # the verifier compares these as written; docs/reference/verifiers.md
        compared += 1
        for kind in ("hotpotqa", "2wikimultihopqa"):
            found = judged(kind, f"Answer: {prediction}", truths[0])
            assert found.correct == (normalize_answer(prediction) == normalize_answer(truths[0]))
            assert found.reward == pytest.approx(hotpot_f1(prediction, truths[0]))
        found = judged("musique", f"Answer: {prediction}", json.dumps(truths))
        assert found.correct == any(normalize_answer(prediction) == normalize_answer(one) for one in truths)
        assert found.reward == pytest.approx(musique_f1(prediction, truths))
    assert compared > 2000


# -- the public files, where they lie beside the project ---------------------------------------------------------------

DATA = Path(__file__).parents[4] / "shared" / "data"
FILES = {
    "gsm8k_test": "gsm8k", "math500": "math500", "aime24": "aime", "amc23": "amc23", "minerva": "minerva",
    "olympiad": "olympiad",
}  # fmt: skip


@pytest.mark.skipif(not DATA.exists(), reason="the public files are not beside this checkout")
@pytest.mark.parametrize("file", FILES)
def test_every_row_of_a_public_file_has_a_prompt_and_an_answer_that_its_verifier_reads(file):
    rows = read_prompts(Benchmark(source=str(DATA / f"{file}.jsonl"), kind=FILES[file]).prompts())
    assert all(isinstance(row, dict) and row["prompt"].endswith("\\boxed{}.") for row in rows)
    for row in rows[:20]:
        assert not judged(FILES[file], "no answer", row["answer"]).correct
