"""Rollout programs: what a rollout is when it is more than one completion. One file a program; see `base`."""

from __future__ import annotations

from pipelines.programs.base import PROGRAMS, Program, ProgramError, Prompt, RolloutFull, RolloutProgram, Sampler, Turn

__all__ = ["PROGRAMS", "Program", "ProgramError", "Prompt", "RolloutFull", "RolloutProgram", "Sampler", "Turn"]
