"""The stages and rounds of passrl, as functions: what the command line calls, for programs of your own.

    write_prompts -> generate -> score -> shape_dataset -> trainer.train      a stage each, dataset to dataset
    run_rounds(Run(config=load_config("run.toml"), url="runs/mine"))          all of them, round after round

`StageParts` makes a stage a step of a Beam pipeline of your own. Importing the package imports nothing else: each name
brings its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.engines.base import EngineOptions, Sampling
    from pipelines.models.folder import describe_model
    from pipelines.options import ConfigError
    from pipelines.parts.job import StageParts
    from pipelines.parts.loop import Stage
    from pipelines.parts.operations import Operations
    from pipelines.prompts.stage import PromptSource, read_prompts, write_prompts
    from pipelines.rollouts.options import GenerateOptions
    from pipelines.rollouts.stage import generate, generate_stage
    from pipelines.runners import RunnerOptions
    from pipelines.runs.check import RunRefused, check_run, find_problems
    from pipelines.runs.config import RunConfig, load_config
    from pipelines.runs.cost import estimate_round
    from pipelines.runs.evaluate import EvalOptions, EvalResult, paired_gain
    from pipelines.runs.lineage import read_lineage
    from pipelines.runs.progress import Reporter
    from pipelines.runs.rounds import (
        evaluate,
        make_rollouts,
        run_round,
        run_rounds,
        score_rollouts,
        shape_rollouts,
        update_policy,
    )
    from pipelines.runs.run import Run
    from pipelines.shaped.stage import ShapeOptions, shape_dataset, shape_stage
    from pipelines.signals.base import Row, Signal, SignalBase, build_signal, sidecar
    from pipelines.signals.columns import columnar_sidecar
    from pipelines.signals.stage import score, score_stage
    from pipelines.verifiers.base import Verdict

_HOMES = {
    "pipelines.engines.base": (
        "EngineOptions",
        "Sampling",
    ),
    "pipelines.models.folder": ("describe_model",),
    "pipelines.options": ("ConfigError",),
    "pipelines.parts.job": ("StageParts",),
    "pipelines.parts.loop": ("Stage",),
    "pipelines.parts.operations": ("Operations",),
    "pipelines.prompts.stage": (
        "PromptSource",
        "read_prompts",
        "write_prompts",
    ),
    "pipelines.rollouts.options": ("GenerateOptions",),
    "pipelines.rollouts.stage": (
        "generate",
        "generate_stage",
    ),
    "pipelines.runners": ("RunnerOptions",),
    "pipelines.runs.check": (
        "RunRefused",
        "check_run",
        "find_problems",
    ),
    "pipelines.runs.config": (
        "RunConfig",
        "load_config",
    ),
    "pipelines.runs.cost": ("estimate_round",),
    "pipelines.runs.evaluate": (
        "EvalOptions",
        "EvalResult",
        "paired_gain",
    ),
    "pipelines.runs.lineage": ("read_lineage",),
    "pipelines.runs.progress": ("Reporter",),
    "pipelines.runs.rounds": (
        "evaluate",
        "make_rollouts",
        "run_round",
        "run_rounds",
        "score_rollouts",
        "shape_rollouts",
        "update_policy",
    ),
    "pipelines.runs.run": ("Run",),
    "pipelines.shaped.stage": (
        "ShapeOptions",
        "shape_dataset",
        "shape_stage",
    ),
    "pipelines.signals.base": (
        "Row",
        "Signal",
        "SignalBase",
        "build_signal",
        "sidecar",
    ),
    "pipelines.signals.columns": ("columnar_sidecar",),
    "pipelines.signals.stage": (
        "score",
        "score_stage",
    ),
    "pipelines.verifiers.base": ("Verdict",),
}

__all__ = [
    "ConfigError", "EngineOptions", "EvalOptions", "EvalResult", "GenerateOptions", "Operations", "PromptSource",
    "Reporter", "Row", "Run", "RunConfig", "RunRefused", "RunnerOptions", "Sampling", "ShapeOptions", "Signal",
    "SignalBase", "Stage", "StageParts", "Verdict", "build_signal", "check_run", "columnar_sidecar", "describe_model",
    "estimate_round", "evaluate", "find_problems", "generate", "generate_stage", "load_config", "make_rollouts",
    "paired_gain", "read_lineage", "read_prompts", "run_round", "run_rounds", "score", "score_rollouts", "score_stage",
    "shape_dataset", "shape_rollouts", "shape_stage", "sidecar", "update_policy", "write_prompts",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
