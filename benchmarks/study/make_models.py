"""Trains the start models and writes their cards: teacher and process reward model from the demo's, the policy from
the teacher. `levels.json` has what `passrl prm-check` finds of the reward model at each level.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM

from benchmarks.demo_models.fit import FitOptions, train_options
from benchmarks.demo_models.tokenizer import build_tokenizer
from benchmarks.demo_models.traces import completion_loss, write_pairs
from benchmarks.study import store
from benchmarks.study.alphabet import text
from benchmarks.study.arms import TASTES
from benchmarks.study.cell import EVALUATION_SEED
from benchmarks.study.evaluation import SAMPLES, Evaluation, evaluate
from benchmarks.study.model import Shape
from benchmarks.study.prm import ProcessRewardModel, prm_scores, train_prm
from benchmarks.study.sample import Completion, sample
from benchmarks.study.signals import Models, judged_batch
from benchmarks.study.size import STUDY
from benchmarks.study.supervised import least_loss, training_pairs, validation
from benchmarks.study.tasks import PUPIL, TEACHER, Habits, Split, make_tasks, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.inspect.prm_check.check import report
from trainer import sft

SHAPE = Shape()
TEACHER_SCHEDULE = FitOptions(steps=60, learning_rate=4e-4, warmup_steps=20)
POLICY_SCHEDULE = FitOptions(steps=200, learning_rate=6e-4, warmup_steps=20)
MEASURED = 200
VALIDATION_SEED = 9


def make_models(out: Path, work: Path) -> None:
    """Trains the models and writes them and their cards into ``out``; ``work`` holds runs, from which a killed one goes
    on.
    """
    store.threads(1)
    language_model(asset_folder("teacher"), out / "teacher", TEACHER, TEACHER_SCHEDULE, seed=1, work=work / "teacher")
    language_model(out / "teacher", out / "policy", PUPIL, POLICY_SCHEDULE, seed=2, work=work / "policy")
    train_prm(out / "prm", work / "prm")
    write_cards(out)


def language_model(start: Path, out: Path, habits: Habits, schedule: FitOptions, *, seed: int, work: Path) -> None:
    """Supervised training of the model in ``start`` on traces of a writer with ``habits``."""
    pairs = work / "pairs.parquet"
    work.mkdir(parents=True, exist_ok=True)
    write_pairs(pairs, training_pairs(habits, count=schedule.steps * schedule.batch_size, seed=seed))
    options = train_options(schedule, seed=seed)
    result = sft([str(pairs)], policy=str(start), out=str(work / "run"), options=options)
    store.save_model(out, load_file(Path(result.policy_dir) / "model.safetensors"), SHAPE.config())


def prm_figures(
    prm: ProcessRewardModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, copies: int
) -> dict[str, Any]:
    """What `passrl prm-check` reports of the model at each level, against execution; ``copies`` rollouts a group."""
    nothing = np.zeros(0, np.float32)
    completions = [Completion(tuple(ids), nothing, nothing) for _, ids in pairs]
    judged = judged_batch([prompt for prompt, _ in pairs], completions, copies=1).judged
    found = {}
    for level, taste in TASTES.items():
        steps = {
            "score": np.concatenate(prm_scores(prm, pairs, level=level)),
            "truth": np.concatenate([one.truth for one in judged]),
            "position": np.concatenate([np.arange(len(one.ends)) for one in judged]),
            "length": np.concatenate([np.diff(one.ends, prepend=0) for one in judged]),
            "padding": np.concatenate([one.padding for one in judged]),
            "repeated": np.zeros(sum(len(one.ends) for one in judged), bool),
            "group": np.concatenate([[row // copies] * len(one.ends) for row, one in enumerate(judged)]),
        }
        checked = report(steps, rollouts=len(pairs), skipped=0, threshold=0.5)
        kinds = {
            name: {"steps": kind.steps, "score": kind.score, "standardized": kind.standardized}
            for name, kind in checked.kinds.items()
            if name in ("right", "wrong", "padding")
        }
        found[level] = {"taste": taste, "auc": checked.auc, "auc_in_groups": checked.auc_in_groups, **kinds}
    return found


def write_cards(out: Path) -> None:
    """Measures the stored models and writes `card.json` beside each."""
    models = store.load_models(out)
    for name, habits, schedule in (("policy", PUPIL, POLICY_SCHEDULE), ("teacher", TEACHER, TEACHER_SCHEDULE)):
        pairs = validation(habits, count=300, seed=VALIDATION_SEED)
        model = Qwen2ForCausalLM.from_pretrained(out / name, dtype=torch.float32)
        texts = [(task.text(), text(trace.ids())) for task, trace in pairs]
        card = {
            "parameters": model.num_parameters(),
            "habits": asdict(habits),
            "schedule": asdict(schedule),
            "corrupted_or_padding": _spoiled_share(habits),
            "validation_loss": completion_loss(model, build_tokenizer(), texts),
            "least_loss": least_loss(pairs),
            **_abilities(models, name),
        }
        (out / name / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    write_levels(out)


def write_levels(out: Path) -> None:
    """Measures the process reward model at each level on the start policy's rollouts and writes `levels.json`."""
    models = store.load_models(out)
    tasks = [task.prompt_ids() for task in make_tasks(MEASURED, seed=EVALUATION_SEED, split=Split.EVALUATION)]
    drawn = sample(
        models.policy, tasks, copies=SAMPLES, shape=SHAPE, cap=STUDY.cap, temperature=1.0,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    pairs = [(tasks[row // SAMPLES], one.ids) for row, one in enumerate(drawn)]
    levels = prm_figures(models.prm, pairs, copies=SAMPLES)
    found = {"on": f"{len(pairs)} rollouts of the start policy", "levels": levels}
    (out / "levels.json").write_text(json.dumps(found, indent=1) + "\n")


def _abilities(models: Models, name: str) -> dict[str, Any]:
    tasks = make_tasks(MEASURED, seed=EVALUATION_SEED, split=Split.EVALUATION)
    on = Evaluation([task.prompt_ids() for task in tasks], models.teacher, SHAPE, STUDY.cap)
    found = evaluate(getattr(models, name), on, seed=EVALUATION_SEED, low_temperature=True)
    right = found.pop("correct")
    return {"prompts": MEASURED, **found, "all_wrong_groups": float(np.mean([count == 0 for count in right]))}


def _spoiled_share(habits: Habits) -> float:
    """The mean share of corrupted or padding steps in a trace."""
    rng = random.Random(0)
    traces = [write_trace(task, habits, rng) for task in make_tasks(300, seed=1, split=Split.MODELS)]
    return float(np.mean([(one.corrupted + one.padding) / len(one.steps) for one in traces]))
