"""Are the verifiers right? Every gold answer of public benchmark files fed back, and 200 changed ones of each file.

    python benchmarks/verifier_gold.py --data FOLDER

Prints one JSON object a file: how many gold answers were marked right, how many changed ones wrong, and the exceptions
by row. FOLDER holds gsm8k_train.jsonl, math500.jsonl and so on, as published; absent files are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.signals.base import build_signal
from pipelines.verifiers.answers import boxed_span
from pipelines.verifiers.base import listed_strings
from pipelines.verifiers.pool import shared_pool

PERTURBED = 200
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


def references(file: Path, column: str) -> list[str]:
    """The reference answers of a file, as a prompts dataset carries them: a list is JSON."""
    values = (json.loads(line)[column] for line in file.read_text(encoding="utf-8").splitlines())
    return [value if isinstance(value, str) else json.dumps(value) for value in values]


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
    other = rng.choice([digit for digit in "123456789" if digit != completion[at]])
    return completion[:at] + other + completion[at + 1 :]


def verdicts(verifier: str, calls: Sequence[tuple[str, str]]) -> list[str]:
    """ok, wrong, unparseable, timeout or error for each (text, answer), by the pool that a signal uses."""
    signal: Any = build_signal("outcome", {"verifier": verifier})
    pool = shared_pool(signal._target, adapter="pipelines.verifiers.base:plain_verdict")
    results = pool.map(calls, options={}, timeout_s=signal.timeout_s)
    return [result.value[1] if result.status == "ok" else result.status for result in results]


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """One result a file."""
    for name, (verifier, column) in FILES.items():
        file = folder / f"{name}.jsonl"
        if not file.exists():
            continue
        answers = references(file, column)
        rng = random.Random(name)
        picked = rng.sample(range(len(answers)), min(PERTURBED, len(answers)))
        given = [(as_completion(verifier, answer), answer) for answer in answers]
        spoilt = [(changed(given[row][0], rng), given[row][1]) for row in picked]
        gold, bad = verdicts(verifier, given), verdicts(verifier, spoilt)
        yield {
            "file": name,
            "verifier": verifier,
            "gold": len(gold),
            "gold_right": gold.count("ok"),
            "perturbed": len(bad),
            "perturbed_wrong": bad.count("wrong"),
            "gold_exceptions": {row: verdict for row, verdict in enumerate(gold) if verdict != "ok"},
            "perturbed_exceptions": {
                row: [verdict, text[-80:]]
                for row, verdict, (text, _) in zip(picked, bad, spoilt, strict=True)
                if verdict != "wrong"
            },
        }


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    for result in measure(parser.parse_args().data):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
