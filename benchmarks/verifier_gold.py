"""Are the verifiers right? Every gold answer of public files fed back, and changed ones; judged solutions; gold steps.

    python benchmarks/verifier_gold.py --data FOLDER [--json]

Prints a Markdown table, one row a file and verifier; --json: one object a row, with the exceptions by row of the file.
FOLDER holds gsm8k_train.jsonl, math500.jsonl and so on, as published, and gsm8k_model_solutions.jsonl, which is
grade_school_math/data/example_model_solutions.jsonl of openai/grade-school-math; absent files are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.signals.base import build_signal
from pipelines.verifiers.answers import boxed_span
from pipelines.verifiers.base import listed_strings
from pipelines.verifiers.equations import stated
from pipelines.verifiers.pool import shared_pool

PERTURBED = 200
PERTURBED_STEPS = 500
#: file -> (verifier, column with the reference)
FILES = {
    "gsm8k_train": ("number", "answer"),
    "gsm8k_test": ("number", "answer"),
    "math500": ("math", "answer"),
    "aime24": ("math", "answer"),
    "amc23": ("math", "answer"),
    "minerva": ("math", "solution"),
    "olympiad": ("math", "answer"),
}
SOLUTIONS = "gsm8k_model_solutions"
STEPS = ("gsm8k_train", "gsm8k_test")


@dataclass(frozen=True, kw_only=True)
class Result:
    """gold: answers, judged solutions or steps with an "="; of these right (as judged), and left unjudged.

    changed: those with one digit changed; of these judged wrong. gold_exceptions, changed_exceptions: row -> verdict.
    """

    file: str
    verifier: str
    gold: int
    gold_right: int
    unjudged: int = 0
    changed: int = 0
    changed_wrong: int = 0
    gold_exceptions: dict[int, Any] = field(default_factory=dict)
    changed_exceptions: dict[int, Any] = field(default_factory=dict)


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def as_completion(verifier: str, reference: str) -> str:
    """A completion that gives just this answer, in the form a model is asked for."""
    if verifier == "number" or "\\boxed" in reference:
        return reference
    parts = listed_strings(reference) or [reference]
    bare = ", ".join(re.sub(r"(?<!\\)\$", "", str(part)).rstrip(".") for part in parts)
    return f"The answer is $\\boxed{{{bare}}}$."


def changed(completion: str, rng: random.Random) -> str:
    """The completion with another answer: its first digit replaced, or 1 added where it has none."""
    start, stop = boxed_span(completion) or (completion.rfind("####"), len(completion))
    at = next((at for at in range(start, stop) if completion[at].isdigit()), None)
    if at is None:
        return completion[:start] + "1+" + completion[start:]
    return _other_digit(completion, at, rng)


def changed_step(step: str, rng: random.Random) -> str | None:
    """The step with the first digit of the number behind one of its "=" replaced; None where none stands there."""
    results = [found.end() - 1 for found in re.finditer(r"=[^\d\w.(]{0,4}[1-9]", step)]
    return _other_digit(step, rng.choice(results), rng) if results else None


def _other_digit(text: str, at: int, rng: random.Random) -> str:
    other = rng.choice([digit for digit in "123456789" if digit != text[at]])
    return text[:at] + other + text[at + 1 :]


def verdicts(verifier: str, calls: Sequence[tuple[str, str]]) -> list[str]:
    """ok, wrong, unparseable, timeout or error for each (text, answer), by the pool that a signal uses."""
    signal: Any = build_signal("outcome", {"verifier": verifier})
    pool = shared_pool(signal._target, adapter="pipelines.verifiers.base:plain_verdict")
    results = pool.map(calls, options={}, timeout_s=signal.timeout_s)
    return [result.value[1] if result.status == "ok" else result.status for result in results]


def gold_answers(file: Path, verifier: str, column: str) -> Result:
    """The reference answers of a file, as a prompts dataset carries them (a list is JSON), and changed ones."""
    values = [row[column] for row in rows(file)]
    answers = [value if isinstance(value, str) else json.dumps(value) for value in values]
    rng = random.Random(file.stem)
    picked = rng.sample(range(len(answers)), min(PERTURBED, len(answers)))
    given = [(as_completion(verifier, answer), answer) for answer in answers]
    spoilt = [(changed(given[row][0], rng), given[row][1]) for row in picked]
    gold, bad = verdicts(verifier, given), verdicts(verifier, spoilt)
    return Result(
        file=file.stem,
        verifier=verifier,
        gold=len(gold),
        gold_right=gold.count("ok"),
        changed=len(bad),
        changed_wrong=bad.count("wrong") + bad.count("unparseable"),
        gold_exceptions={row: verdict for row, verdict in enumerate(gold) if verdict != "ok"},
        changed_exceptions={
            row: [verdict, text[-80:]]
            for row, verdict, (text, _) in zip(picked, bad, spoilt, strict=True)
            if verdict not in ("wrong", "unparseable")
        },
    )


def judged_solutions(file: Path) -> Result:
    """The solutions of four models to GSM8K's test questions, judged by its authors (`is_correct`)."""
    judged = [(row, one) for row in rows(file) for one in row.values() if isinstance(one, dict)]
    found = verdicts("number", [(one["solution"], row["ground_truth"]) for row, one in judged])
    agree = [(verdict == "ok") == one["is_correct"] for verdict, (_, one) in zip(found, judged, strict=True)]
    odd = {row: verdict for row, (verdict, same) in enumerate(zip(found, agree, strict=True)) if not same}
    return Result(file=file.stem, verifier="number", gold=len(agree), gold_right=sum(agree), gold_exceptions=odd)


def gold_steps(file: Path) -> Result:
    """The steps with an "=" of GSM8K's solutions, without their <<annotations>>, and those with another result."""
    texts = [re.sub(r"<<.*?>>", "", row["answer"]).splitlines() for row in rows(file)]
    steps = [step for lines in texts for step in lines if "=" in step]
    judged = {row: seen for row, step in enumerate(steps) if (seen := [one for one in stated(step) if one is not None])}
    right = [row for row, seen in judged.items() if all(seen)]
    rng = random.Random(file.stem)
    spoilt = {
        row: other for row in rng.sample(right, len(right)) if (other := changed_step(steps[row], rng)) is not None
    }
    picked = list(spoilt.items())[:PERTURBED_STEPS]
    missed = {row: step for row, step in picked if False not in stated(step)}
    return Result(
        file=file.stem,
        verifier="equations",
        gold=len(steps),
        gold_right=len(right),
        unjudged=len(steps) - len(judged),
        changed=len(picked),
        changed_wrong=len(picked) - len(missed),
        gold_exceptions={row: steps[row] for row, seen in judged.items() if not all(seen)},
        changed_exceptions=missed,
    )


def measure(folder: Path) -> Iterator[Result]:
    """One result a file and verifier."""
    for name, (verifier, column) in FILES.items():
        if (file := folder / f"{name}.jsonl").exists():
            yield gold_answers(file, verifier, column)
    if (file := folder / f"{SOLUTIONS}.jsonl").exists():
        yield judged_solutions(file)
    for name in STEPS:
        if (file := folder / f"{name}.jsonl").exists():
            yield gold_steps(file)


def table_row(result: Result) -> str:
    """The result as a row of the table."""
    left = f", {result.unjudged:,} unjudged" if result.unjudged else ""
    spoilt = f"{result.changed_wrong:,} of {result.changed:,}" if result.changed else "-"
    return f"| {result.file} | `{result.verifier}` | {result.gold_right:,} of {result.gold:,}{left} | {spoilt} |"


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print("| file | verifier | gold marked right | changed marked wrong |\n| --- | --- | --- | --- |")
    for result in measure(arguments.data):
        print(json.dumps(asdict(result)) if arguments.json else table_row(result), flush=True)


if __name__ == "__main__":
    main()
