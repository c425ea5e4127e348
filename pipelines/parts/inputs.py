"""What a stage reads: complete datasets that belong together, checked before the job and again where a part is read."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pass_ops.errors import PassError, StaleInputError
from pass_ops.shards import CompleteDataset, DatasetSpec, open_dataset
from pass_ops.shards.checks import alignment_problems, describe

RESERVED = ("prompts", "rollouts")


class AlignmentError(PassError, ValueError):
    """A dataset's rows are not those of the rollouts, row for row."""


class WrongInputError(PassError, ValueError):
    """A dataset is not what the stage reads in its place: another stage, kind, or made from other rollouts."""


def open_rollouts(url: str) -> CompleteDataset:
    """The rollouts, complete and not stale. Raises WrongInputError and what `open_dataset` and `check_inputs` raise."""
    rollouts = open_dataset(url)
    if rollouts.spec.stage != "generate":
        raise WrongInputError(f"{url} is a dataset of stage {rollouts.spec.stage}; rollouts are made by stage generate")
    if missing := rollouts.spec.missing_facts:
        raise WrongInputError(
            f"{url} does not say {', '.join(missing)} in its _dataset.json, which shape and train need; "
            "make the rollouts anew"
        )
    rollouts.check_inputs()
    return rollouts


def open_prompts(url: str, rollouts: CompleteDataset) -> CompleteDataset:
    """The prompts that the rollouts were made from."""
    prompts = open_dataset(url)
    made_from = rollouts.spec.inputs.get("prompts")
    if made_from is None or made_from.content_digest != prompts.content_digest:
        recorded = made_from.content_digest[:16] if made_from else "none"
        raise StaleInputError(
            f"{rollouts.url} was made from prompts of content digest {recorded}, {url} has "
            f"{prompts.content_digest[:16]} now: "
            "a step would be checked against another task. Make the rollouts again, or give their own prompts"
        )
    return prompts


def open_signal(url: str, name: str, rollouts: CompleteDataset) -> CompleteDataset:
    """A signal of just these rollouts."""
    if name in RESERVED:
        raise WrongInputError(
            f"a signal is named {name!r}, which is what a stage calls its input of that name; rename it"
        )
    signal = open_dataset(url)
    if signal.spec.stage != "score":
        raise WrongInputError(
            f"{url}, given as signal {name!r}, is a dataset of stage {signal.spec.stage}; signals are made by "
            "stage score"
        )
    signal.check_inputs()
    made_from = signal.spec.inputs["rollouts"].content_digest
    if made_from != rollouts.content_digest:
        raise StaleInputError(
            f"signal {name!r} ({url}) was made from rollouts of content digest {made_from[:16]}, {rollouts.url} has "
            f"{rollouts.content_digest[:16]}: its values belong to other rows. Score these rollouts (--overwrite)"
        )
    return signal


def reopen(url: str, name: str, spec: DatasetSpec) -> CompleteDataset:
    """In a worker: an input of the dataset being made, still holding what was recorded. Raises StaleInputError."""
    opened = open_dataset(url)
    recorded = spec.inputs[name].content_digest
    if opened.content_digest != recorded:
        raise StaleInputError(
            f"{url} has content digest {opened.content_digest[:16]} now and had {recorded[:16]} when this job "
            "began: it was made anew "
            "meanwhile. Run the stage again (--overwrite)"
        )
    return opened


def check_alignment(table: pa.Table, rollouts: pa.Table, *, what: str) -> None:
    """Refuse a signal's part that is not the rollouts' row for row (ids, order, lengths, masked values).

    Raises AlignmentError.
    """
    for problem in alignment_problems(table, rollouts):
        raise AlignmentError(f"{what}: {describe(problem, rollouts)} [{problem.code}]. Score these rollouts again")


def kinds(signals: Mapping[str, CompleteDataset]) -> dict[str, str]:
    """Signal name -> kind."""
    return {name: str(dataset.spec.options.get("kind")) for name, dataset in signals.items()}
