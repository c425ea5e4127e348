"""The page beside the shipped models, written from their records so that no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.demo_models.fit import LOG_EVERY
from pipelines.demo.assets import MODELS

LANGUAGE_MODELS = ("policy", "teacher")


def write_readme(folder: Path, *, command: str) -> None:
    """Write ``folder``/README.md from ``made.json`` and ``training.jsonl`` of policy, teacher and prm.

    ``command`` is the command line that made them.
    """
    models = {name: _read(folder / name) for name in MODELS}
    blocks = [
        "# Models of the demo",
        "Character-level models of the arithmetic task (`pipelines/demo/arithmetic.py`), Apache-2.0. Made by",
        f"```\n{command}\n```",
        "from a seed, with nothing downloaded; another machine's rounding gives other weights of the same quality. "
        "`made.json` holds a model's whole recipe and its figures, `training.jsonl` its log.",
        "## Policy and teacher",
        _table(
            ["", *LANGUAGE_MODELS],
            [[label, *(_cell(models[name]["outcome"], key) for name in LANGUAGE_MODELS)] for label, key in _FIGURES],
        ),
        "The least possible loss is that of a model that knows the trace writer's habits exactly: the mean negative "
        "log-probability of the validation traces under the writer. A policy that has come down to it has learned all "
        "there is to learn from its traces; what it gets wrong then is what the traces get wrong.",
        _habits(models),
        "## Process reward model",
        "Qwen2.5-Math-PRM's form: the text is the prompt and every step followed by `<extra_0>`; the score of a step "
        "is the softmaxed second class at its tag. It has a tokenizer of its own and learned traces of every kind of "
        "fault; while it was trained a second head, dropped afterwards, said which character would be right next. "
        "Weights of two bytes, computed with in float32. An AUC of 0.5 is chance, one of 1 never ranks a wrong step "
        "above a right one.",
        _table(
            ["held-out steps of the policy's kind of traces", ""],
            [
                ["AUC, right against wrong", _cell(models["prm"]["outcome"], "auc")],
                *([f"mean score, {kind}", _cell(models["prm"]["outcome"], kind)] for kind in _KINDS),
                ["parameters", _cell(models["prm"]["outcome"], "parameters")],
            ],
        ),
        "## Loss while training",
        f"Mean over the {LOG_EVERY} steps before. Each trace is read once, so this is the loss on unseen traces.",
        _losses(models),
    ]
    (folder / "README.md").write_text("\n\n".join(blocks) + "\n")


_KINDS = ("right", "wrong", "padding")
_FIGURES = (
    ("parameters", "parameters"),
    ("validation loss, nats a token", "validation_loss"),
    ("least possible loss", "least_loss"),
    ("held-out prompts", "prompts"),
    ("pass@1 at temperature 1", "pass_1"),
    ("its standard error", "pass_1_error"),
    ("at least one right of the samples", "pass_all"),
    ("samples a prompt", "samples"),
    ("greedy accuracy", "greedy"),
    ("tokens a completion", "tokens"),
    ("padding lines a completion", "padding_lines"),
)


def _read(folder: Path) -> dict[str, Any]:
    """A model's record with its log under ``log``."""
    record: dict[str, Any] = json.loads((folder / "made.json").read_text())
    record["log"] = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return record


def _habits(models: dict[str, dict[str, Any]]) -> str:
    """The habits of the traces each language model learned, as a table."""
    rows = [
        [label.replace("_", " "), *(str(models[name]["recipe"]["habits"][label]) for name in LANGUAGE_MODELS)]
        for label in models["policy"]["recipe"]["habits"]
    ]
    return _table(["probability in the training traces", *LANGUAGE_MODELS], rows)


def _losses(models: dict[str, dict[str, Any]]) -> str:
    """About ten lines of each training log, side by side, by the share of the training done."""
    shares = [0.1 * tenth for tenth in range(1, 11)]
    rows = []
    for share in shares:
        cells = []
        for record in models.values():
            log = record["log"]
            line = log[max(0, round(share * len(log)) - 1)]
            cells.append(f"{line['loss']:.4f} ({line['step']})")
        rows.append([f"{share:.0%}", *cells])
    return _table(["of the training", *(f"{name}, at step" for name in models)], rows)


def _cell(outcome: dict[str, Any], key: str) -> str:
    value = outcome[key]
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
