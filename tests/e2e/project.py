"""A small project folder, as a user would have it: model, prompts, configuration. Recorded engine: no model runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

BASE = """
[run]
rounds = 2

[prompts]
source = "prompts.jsonl"
prompts_per_part = 4

[policy]
model = "model"

[engine]
kind = "recorded"
recording = "synthetic:3"

[generate]
group_size = 3

[generate.sampling]
max_tokens = 16

[signals.outcome]
signal = "outcome"
verifier = "number"
workers = 1

[train]
updates = 2
lr = 1e-3
warmup_steps = 0
"""

CONFIG = (
    BASE
    + """
[signals.format]
signal = "format"
pattern = "[0-9]"
mode = "search"
workers = 1

[signals.steps]
signal = "execution"
checker = "pipelines.demo.arithmetic:check_steps"
separator = "\\n"
workers = 1

[shape]
process = "steps"
outcome = "outcome"
format = "format"

[eval]
samples = 2
k = [1, 2]

[eval.benchmarks.small]
source = "prompts.jsonl"
limit = 4
"""
)

# One signal and no evaluation, where a test asks for neither.
PLAIN = (
    BASE
    + """
[shape]
estimator = "grpo_outcome"
outcome = "outcome"
weights = { format = 0.0 }
"""
)


class Project:
    """A folder with run.toml, prompts.jsonl and model/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = str(folder / "run.toml")
        self.out = str(folder / "run")

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


def make_project(folder: Path, model: str) -> Project:
    """Ten prompts in three parts, three rollouts each."""
    made = Project(folder)
    made.write("run.toml", CONFIG)
    rows = [{"prompt": f"{10 + i}a+3b-2?", "answer": str(i)} for i in range(10)]
    made.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model, folder / "model")
    return made
