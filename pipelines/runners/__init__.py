"""Beam runners by name: how each is started and what its flags are. What a stage does is the same on all of them."""

from __future__ import annotations

from pipelines.runners.base import RUNNERS, JobFailed, JobSubmitted, RunnerFlagError, RunnerOptions, run_job

__all__ = ["RUNNERS", "JobFailed", "JobSubmitted", "RunnerFlagError", "RunnerOptions", "run_job"]
