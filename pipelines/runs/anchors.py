"""The models that stay what the policy was before round 0: the KL reference and G-OPD's base.

docs/spec/method.md reads "initial weights" and "reference" as the policy at the start of round 0, in every round. Their
digests are compared with that policy's before each round, so that a folder whose weights were replaced, or a name
that was pointed at a later policy, is noticed before anything is scored with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pass_ops.errors import PassError
from pipelines.models.folder import model_digest
from pipelines.runs.lineage import read_rounds
from pipelines.runs.run import Run
from pipelines.signals.base import Signal
from pipelines.signals.modelled import ModelSignal


class AnchorError(PassError, ValueError):
    """A model that must be the policy before round 0 is another one."""


def anchor_problems(run: Run, signals: Mapping[str, Signal], *, last_round: int) -> list[str]:
    """One line for each anchor that is not the policy before round 0, up to a round, by its name."""
    if "other_base" in run.config.run.accept:
        return []
    return [
        f"{option} is signal {name!r}, which must be the policy before round 0 in every round; {problem}. Set "
        f'signals.{name}.model to {run.config.policy.model!r}, or add "other_base" to run.accept'
        for option, name in _named(run, signals)
        if (problem := _problem(run, signals.get(name), last_round=last_round)) is not None
    ]


def check_anchors(run: Run, round_index: int) -> dict[str, str]:
    """Option -> digest of its model, for the lineage of a round. Raises AnchorError."""
    if problems := anchor_problems(run, run.signals, last_round=round_index):
        raise AnchorError(f"round {round_index}: " + "\n  ".join(problems))
    models = {option: _model(run.signals.get(name)) for option, name in _named(run, run.signals)}
    return {option: model_digest(model) for option, model in models.items() if model is not None}


def _problem(run: Run, signal: Signal | None, *, last_round: int) -> str | None:
    """Why a signal's model is not the policy before round 0; None where it is, or where it has no model of any kind."""
    if not isinstance(signal, ModelSignal):
        return None
    if signal.model is None:
        return None if last_round == 0 else f"it names no model, so in round {last_round} it is that round's own policy"
    start, found = _digest_of_start(run), model_digest(signal.model)
    return None if found == start else f"its model has digest {found[:16]}..., that policy {start[:16]}..."


def _model(signal: Signal | None) -> str | None:
    return signal.model if isinstance(signal, ModelSignal) else None


def _named(run: Run, signals: Mapping[str, Signal]) -> Iterator[tuple[str, str]]:
    """Option and signal name of every anchor."""
    if run.config.shape.reference is not None:
        yield "shape.reference", run.config.shape.reference
    for name, signal in signals.items():
        if isinstance(base := getattr(signal, "base", None), str) and base in signal.inputs:
            yield f"signals.{name}.base", base


def _digest_of_start(run: Run) -> str:
    """Of the policy before round 0: as the lineage has it, else of the configured model."""
    recorded = read_rounds(run.url).get(0, {}).get("policy_digest")
    return str(recorded) if recorded is not None else model_digest(run.config.policy.model)
