"""Trains the start models and writes their cards: the teacher from the demo's, the policy from the teacher.

The process reward model is the teacher's probability with noise (`signals.prm_scores`); `levels.json` has its figures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.study import store
from benchmarks.study.arms import TASTES
from benchmarks.study.cell import EVALUATION_SEED
from benchmarks.study.evaluation import SAMPLES, Evaluation, evaluate
from benchmarks.study.fit import (
    Schedule,
    fit,
    language_loss,
    least_loss,
    loss_on,
    trace_batches,
    validation,
)
from benchmarks.study.model import Parameters, Shape
from benchmarks.study.sample import Completion, sample
from benchmarks.study.signals import NOISE, judged_batch, prm_scores, with_taste
from benchmarks.study.size import STUDY
from benchmarks.study.tasks import PUPIL, TEACHER, Habits, Split, make_tasks, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.inspect.prm_check.check import report

SHAPE = Shape()
TEACHER_SCHEDULE = Schedule(steps=60, lr=4e-4, batch=32, warmup=20)
POLICY_SCHEDULE = Schedule(steps=150, lr=6e-4, batch=32, warmup=20)
MEASURED = 200
VALIDATION_SEED = 9


def make_models(out: Path, work: Path) -> None:
    """Trains what is not trained yet (``work`` holds logs and states) and writes models and cards into ``out``."""
    store.threads(1)
    teacher = demo_teacher()
    language_model(teacher, TEACHER, TEACHER_SCHEDULE, seed=1, folder=work / "teacher")
    store.save_model(out / "teacher", teacher, SHAPE.config())
    policy = {name: tensor.clone() for name, tensor in teacher.items()}
    language_model(policy, PUPIL, POLICY_SCHEDULE, seed=2, folder=work / "policy")
    store.save_model(out / "policy", policy, SHAPE.config())
    write_cards(out)


def demo_teacher() -> dict[str, Tensor]:
    """The weights of the demo's teacher, which has the study's shape and vocabulary."""
    found: dict[str, Tensor] = load_file(asset_folder("teacher") / "model.safetensors")
    return found


def language_model(
    parameters: dict[str, Tensor], habits: Habits, schedule: Schedule, *, seed: int, folder: Path
) -> None:
    """Supervised training on traces of a writer with ``habits``, in place."""
    batches = trace_batches(habits, size=schedule.batch, seed=seed)
    fit(parameters, batches, partial(language_loss, shape=SHAPE), schedule=schedule, folder=folder)


def prm_figures(
    grader: Parameters, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, copies: int
) -> dict[str, Any]:
    """What `passrl prm-check` reports of the model at each level, against execution; ``copies`` rollouts a group."""
    nothing: NDArray[np.float32] = np.zeros(0, np.float32)
    completions = [Completion(tuple(ids), nothing, nothing) for _, ids in pairs]
    judged = judged_batch([prompt for prompt, _ in pairs], completions, copies=1).judged
    scores = prm_scores(grader, pairs, judged, SHAPE)
    found = {}
    for level, taste in TASTES.items():
        steps = {
            "score": np.concatenate(with_taste(scores, judged, taste)),
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
    for name, parameters, habits, schedule in (
        ("policy", models.policy, PUPIL, POLICY_SCHEDULE),
        ("teacher", models.teacher, TEACHER, TEACHER_SCHEDULE),
    ):
        pairs = validation(habits, count=300, seed=VALIDATION_SEED)
        card = {
            "parameters": sum(tensor.numel() for tensor in parameters.values()),
            "habits": asdict(habits),
            "schedule": asdict(schedule),
            "corrupted_or_padding": _spoiled_share(habits),
            "validation_loss": loss_on(dict(parameters), pairs, SHAPE),
            "least_loss": least_loss(pairs),
            **_abilities(dict(parameters), models.teacher),
        }
        _write(out / name, card)
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
    levels = prm_figures(models.teacher, pairs, copies=SAMPLES)
    found = {"noise": NOISE, "on": f"{len(pairs)} rollouts of the start policy", "levels": levels}
    (out / "levels.json").write_text(json.dumps(found, indent=1) + "\n")


def _abilities(parameters: dict[str, Tensor], teacher: Any) -> dict[str, Any]:
    tasks = make_tasks(MEASURED, seed=EVALUATION_SEED, split=Split.EVALUATION)
    on = Evaluation([task.prompt_ids() for task in tasks], teacher, SHAPE, STUDY.cap)
    found = evaluate(parameters, on, seed=EVALUATION_SEED, low_temperature=True)
    right = found.pop("correct")
    return {"prompts": MEASURED, **found, "all_wrong_groups": float(np.mean([count == 0 for count in right]))}


def _spoiled_share(habits: Habits) -> float:
    """The mean share of corrupted or padding steps in a trace."""
    rng = random.Random(0)
    traces = [write_trace(task, habits, rng) for task in make_tasks(300, seed=1, split=Split.MODELS)]
    return float(np.mean([(one.corrupted + one.padding) / len(one.steps) for one in traces]))


def _write(folder: Path, card: dict[str, Any]) -> None:
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
