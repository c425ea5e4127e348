"""Numbers from other projects' own code, for tests/pipelines/inspect/test_label_figures.py. Run in a throwaway place:

    python -m venv peers
    peers/bin/pip install numpy scikit-learn==1.9.1
    peers/bin/python tests/pipelines/inspect/reference/peers.py sklearn > tests/pipelines/inspect/reference/sklearn.json
    git clone https://github.com/QwenLM/ProcessBench
    git -C ProcessBench checkout e8024636bcabdf8bd514440551b531d3f90dd18b
    peers/bin/python tests/pipelines/inspect/reference/peers.py ProcessBench/code/run_eval_prm_rlhflow.py \
        > tests/pipelines/inspect/reference/processbench.json

ProcessBench's script asks a server for "+" or "-" after each step and loads its data from the hub. Both are put in its
way here: the data are the cases below, and the server answers "+" where the step's score is at least THRESHOLD. Threads
take the place of its processes, which cannot take its inner function. What it computes and prints is its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import multiprocessing.pool
import os
import random
import runpy
import sys
import tempfile
from types import ModuleType, SimpleNamespace
from typing import Any

THRESHOLD = 0.5
SPLITS = ("gsm8k", "math", "olympiadbench", "omnimath")


def make_cases(split: str) -> list[dict[str, Any]]:
    """Solutions with a label as ProcessBench has it and a score a step; scores of two digits, so many are equal."""
    rng = random.Random(split)
    quality = {"gsm8k": 0.45, "math": 0.3, "olympiadbench": 0.1, "omnimath": 0.9}[split]
    cases = []
    for number in range(40):
        steps = rng.randint(1, 9)
        label = rng.choice([-1, rng.randrange(steps)])
        means = [0.6 + (quality if label < 0 or at < label else -quality) / 2 for at in range(steps)]
        cases.append(
            {
                "id": f"{split}-{number}",
                "group": rng.randrange(12),
                "label": label,
                "scores": [round(min(1.0, max(0.0, rng.gauss(mean, 0.3))), 2) for mean in means],
            }
        )
    return cases


def sklearn() -> dict[str, Any]:
    """AUC, AUC within groups (each group's, weighted by its pairs), calibration curve and Brier score of each split."""
    import numpy as np
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, roc_auc_score

    found = {}
    for split in SPLITS:
        cases = make_cases(split)
        told = [
            (score, at != case["label"], case["group"])
            for case in cases
            for at, score in enumerate(case["scores"])
            if case["label"] < 0 or at <= case["label"]
        ]
        score, right, group = (np.array(values) for values in zip(*told, strict=True))
        won = pairs = 0.0
        for one in np.unique(group):
            here = group == one
            if len(set(right[here])) == 2:
                count = int(right[here].sum()) * int((~right[here]).sum())
                won, pairs = won + roc_auc_score(right[here], score[here]) * count, pairs + count
        share, mean = calibration_curve(right, score, n_bins=10, strategy="uniform")
        found[split] = {
            "cases": cases,
            "auc": roc_auc_score(right, score),
            "auc_in_problem": won / pairs,
            "share_right": share.tolist(),
            "mean_score": mean.tolist(),
            "brier": brier_score_loss(right, score),
        }
    return found


def processbench(script: str) -> dict[str, Any]:
    """What the script prints for each split, and its prediction for each case."""
    cases = {split: make_cases(split) for split in SPLITS}
    put_in_the_way(cases)
    script = os.path.abspath(script)
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        runpy.run_path(script, run_name="__main__")
        predicted = {split: predictions(split) for split in SPLITS}
    lines = dict(line.split(" ", 1) for line in printed.getvalue().splitlines())
    return {
        split: {"cases": cases[split], "printed": lines[split], "predictions": predicted[split]} for split in SPLITS
    }


def predictions(split: str) -> dict[str, int]:
    """id -> prediction, from the files that the script wrote."""
    found = {}
    for kind in ("error", "correct"):
        with open(f"outputs/Llama3.1-8B-PRM-Mistral-Data/{split}_{kind}.jsonl") as file:
            found |= {row["id"]: row["prediction"] for row in map(json.loads, file)}
    return found


def put_in_the_way(cases: dict[str, list[dict[str, Any]]]) -> None:
    """Modules of the names that the script imports: data sets that are the cases, a client that knows the scores."""
    scores = {
        (case["id"], at): score for rows in cases.values() for case in rows for at, score in enumerate(case["scores"])
    }

    def load_dataset(_: str, *, split: str) -> list[dict[str, Any]]:
        return [
            {"id": case["id"], "problem": case["id"], "label": case["label"],
             "steps": [f"{case['id']}:{at}" for at in range(len(case["scores"]))]}
            for case in cases[split]
        ]  # fmt: skip

    def create(*, messages: list[dict[str, str]], **_: Any) -> SimpleNamespace:
        name, at = messages[-1]["content"].rpartition("\n")[2].split(":")
        sign = "+" if scores[name, int(at)] >= THRESHOLD else "-"
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=sign))])

    class Client:
        def __init__(self, **_: Any) -> None:
            self.chat = SimpleNamespace(completions=SimpleNamespace(create=create))

    for name, values in {
        "datasets": {"load_dataset": load_dataset}, "openai": {"OpenAI": Client},
        "tqdm": {"tqdm": lambda rows, **_: rows},
    }.items():  # fmt: skip
        module = ModuleType(name)
        vars(module).update(values)
        sys.modules[name] = module
    multiprocessing.Pool = multiprocessing.pool.ThreadPool


if __name__ == "__main__":
    result = sklearn() if sys.argv[1] == "sklearn" else processbench(sys.argv[1])
    print(json.dumps(result))
