"""Prompts of a round chosen by how often earlier rounds solved them: `[select]`.

    RUN/round-000/pass_rates.json    of every prompt of the round: rollouts that passed, rollouts judged
    RUN/round-001/selection.json     of every prompt chosen: why, its last measured rate, and the round of that

Both follow from stored rollouts and verdicts alone, so a rerun chooses the same; they stay when a disk budget deletes
the rows that they were counted from. A group is the rollouts of one prompt, and a prompt is chosen whole.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow.compute as pc

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import Store
from pipelines.options import ConfigError, options
from pipelines.options.types import Share
from pipelines.prompts.stage import PromptSource, source_ids

RATES, SELECTION = "pass_rates.json", "selection.json"
Reason = Literal["window", "unmeasured", "outside"]


class SelectionError(PassError, ValueError):
    """What prompts are chosen by cannot be read."""


@options(ConfigError)
class SelectOptions:
    """Which prompts a round takes, by their pass rate when they were last sampled."""

    min_pass_rate: Share = 0.1
    """Prompts solved less often are too hard: a group that is all wrong teaches little."""
    max_pass_rate: Share = 0.9
    """Prompts solved more often are too easy."""
    explore: Share = 0.1
    """Least share of a round that goes to other prompts: those never sampled, in the source's order, then those outside
    the window, the longest unsampled first."""
    outcome: str = "outcome"
    """Name of the signal of [signals] that judges; a rollout passes where its reward is above 0.5."""

    def __post_init__(self) -> None:
        if self.min_pass_rate > self.max_pass_rate:
            raise ConfigError(
                f"min_pass_rate {self.min_pass_rate} is above max_pass_rate {self.max_pass_rate}; swap them"
            )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A prompt's last pass rate (None where no rollout of it was judged), and the round that measured it."""

    round: int
    rate: float | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One prompt of a round. reason: its rate lies in the window, it was never sampled, or its rate lies outside."""

    prompt_id: str
    reason: Reason
    rate: float | None = None
    round: int | None = None


def choose(order: Sequence[str], last: Mapping[str, Measured], *, count: int, options: SelectOptions) -> list[Choice]:
    """`count` prompts of a source (all, where it has no more), in the source's order.

    order: prompt ids, those to be sampled next first. last: of the prompts sampled before. At least ceil(explore *
    count) come from outside the window where there are so many; missing ones of a kind are made up from the other.
    """
    place = {name: index for index, name in enumerate(order)}
    choices = [_choice(name, last.get(name), options) for name in order]
    by_age = sorted(choices, key=lambda one: (-1 if one.round is None else one.round, place[one.prompt_id]))
    inside = [one for one in by_age if one.reason == "window"]
    others = [one for one in by_age if one.reason != "window"]
    explored = min(len(others), math.ceil(options.explore * count - 1e-9))
    taken = inside[: max(0, count - explored)]
    taken += others[: count - len(taken)]
    return sorted(taken, key=lambda one: place[one.prompt_id])


def _choice(name: str, found: Measured | None, options: SelectOptions) -> Choice:
    if found is None:
        return Choice(prompt_id=name, reason="unmeasured")
    fits = found.rate is not None and options.min_pass_rate <= found.rate <= options.max_pass_rate
    return Choice(prompt_id=name, reason="window" if fits else "outside", rate=found.rate, round=found.round)


def pass_rates(folder: str, outcome: str) -> dict[str, tuple[int, int]]:
    """Prompt id -> rollouts that passed and rollouts judged, of a round's folder; counted once and kept beside it.

    Raises SelectionError where what was kept is damaged, and errors of pass_ops.errors where it cannot be counted.
    """
    store = Store(folder)
    verdicts = shards.open_dataset(f"{folder}/signals/{outcome}")
    try:
        kept = json.loads(store.read(RATES))
        if kept["outcome"] == verdicts.content_digest:
            return {name: (int(passed), int(judged)) for name, (passed, judged) in kept["rates"].items()}
    except FileNotFoundError:
        pass
    except (KeyError, TypeError, ValueError) as error:
        raise SelectionError(f"{store.path(RATES)} is damaged ({error}): remove it, and it is counted again") from None
    rates = _counted(folder, verdicts)
    store.put(RATES, json.dumps({"outcome": verdicts.content_digest, "rates": rates}, indent=1).encode())
    return rates


def _counted(folder: str, verdicts: shards.CompleteDataset) -> dict[str, tuple[int, int]]:
    prompts, rollouts = (shards.open_dataset(f"{folder}/{name}") for name in ("prompts", "rollouts"))
    names = [prompts.read_part(part, columns=["prompt_id"]).column(0).to_pylist() for part in range(len(prompts.parts))]
    passed, judged = Counter[str](), Counter[str]()
    for part in range(len(rollouts.parts)):
        groups = rollouts.read_part(part, columns=["group_id"]).column(0).to_pylist()
        rewards = verdicts.read_part(part, columns=["outcome_reward"]).column(0)
        right, known = pc.fill_null(pc.greater(rewards, 0.5), False), pc.is_valid(rewards)
        for group, is_right, is_known in zip(groups, right.to_pylist(), known.to_pylist(), strict=True):
            passed[group] += is_right
            judged[group] += is_known
    return {name: (passed[name], judged[name]) for part in names for name in part}


def last_measured(folders: Sequence[str], outcome: str) -> dict[str, Measured]:
    """Of each prompt that rounds 0, 1, ... in these folders sampled, the newest pass rate."""
    found: dict[str, Measured] = {}
    for index, folder in enumerate(folders):
        for name, (passed, judged) in pass_rates(folder, outcome).items():
            found[name] = Measured(round=index, rate=passed / judged if judged else None)
    return found


def chosen(source: PromptSource, last: Mapping[str, Measured], options: SelectOptions) -> list[Choice]:
    """The prompts of a round whose plain ones would be `source`, from its offset on. Raises as the source's reading."""
    if source.limit is None:
        raise SelectionError("[select] chooses run.prompts_per_round prompts, and that is not set; set it")
    return choose(source_ids(replace(source, limit=None)), last, count=source.limit, options=options)


def selected_source(source: PromptSource, choices: Sequence[Choice]) -> PromptSource:
    """The source that has these prompts alone."""
    names = tuple(one.prompt_id for one in choices)
    return replace(source, ids=names, offset=0, limit=None, shuffle_seed=None)


def reasons(choices: Sequence[Choice]) -> dict[str, int]:
    """Reason -> prompts chosen for it, for the lineage."""
    return dict(sorted(Counter(one.reason for one in choices).items()))


def as_json(choices: Sequence[Choice]) -> dict[str, dict[str, Any]]:
    """The content of selection.json: prompt id -> reason, rate and round."""
    return {one.prompt_id: {key: value for key, value in asdict(one).items() if key != "prompt_id"} for one in choices}
