"""What an import is, once its source has been read: everything that its datasets' descriptions say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pass_ops.shards import Store
from pass_ops.shards.schemas import MAY_BE_UNKNOWN
from pipelines.imports.known import Known
from pipelines.imports.plan import Plan
from pipelines.imports.record import Format, ImportSourceError
from pipelines.imports.sources import SourceFile
from pipelines.imports.spool import Index
from pipelines.options.types import check_name

FILE = "facts.json"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Sizes, where spooled rows lie, and what the source knows.

    parts, groups, group_size, rollouts, rejected: counts. chunk_starts: see `Spool`. rewards: signal -> number of the
    reward in the spool. steps: whether rows have labelled steps. ids, logprobs, mask, temperature: as `imported` of
    `_dataset.json` says them; sampled_at: the temperature, None where unknown. decimals: of rounded log-probabilities.
    turns: whether completions without ids hold several messages, which `rescore` has to know. unknown: columns of the
    rollouts with nulls.
    """

    parts: int
    groups: int
    group_size: int
    rollouts: int
    rejected: int
    chunk_starts: tuple[int, ...]
    rewards: Mapping[str, int]
    steps: bool
    ids: str
    logprobs: str
    decimals: int | None
    mask: str
    temperature: str
    sampled_at: float | None
    turns: bool
    unknown: tuple[str, ...]


def facts_of(
    form: Format, known: Known, index: Index, plan: Plan, *, tokenizer: bool, temperature: float | None
) -> Facts:
    """What is known now. tokenizer: whether one was given. temperature: what the user says it was.

    Raises ImportSourceError where the source cannot be imported so.
    """
    _check_usable(form, known, index, tokenizer=tokenizer)
    ids, mask = "absent", "absent"
    if known.all_have("token_ids"):
        ids, mask = "source", "assumed" if form.mask == "assumed" else "source"
    elif tokenizer:
        ids, mask = "re-encoded", "assumed"
    logprobs, decimals = _logprobs(form, known)
    whence, sampled_at = _temperature(known, temperature)
    known_columns = {
        "prompt_token_ids": tokenizer or known.all_have("prompt_token_ids"),
        "token_ids": ids != "absent",
        "loss_mask": ids != "absent",
        "behavior_logprobs": known.all_have("logprobs"),
        "finish_reason": known.all_have("finish_reason"),
    }
    return Facts(
        parts=len(plan.bounds_P1) - 1,
        groups=plan.groups,
        group_size=plan.group_size,
        rollouts=known.rows,
        rejected=int(index.rejected.sum()),
        chunk_starts=index.chunk_starts,
        rewards=_signal_names(known.rewards),
        steps=known.steps > 0,
        ids=ids,
        logprobs=logprobs,
        decimals=decimals,
        mask=mask,
        temperature=whence,
        sampled_at=sampled_at,
        turns=ids == "absent" and known.turns > 1,
        unknown=tuple(name for name in MAY_BE_UNKNOWN if not known_columns.get(name, False)),
    )


def imported_block(form: Format, files: tuple[SourceFile, ...], facts: Facts) -> dict[str, Any]:
    """`imported` of `_dataset.json`."""
    return {
        "format": form.name,
        "files": [{"name": file.name, "sha256": file.sha256} for file in files],
        "ids": facts.ids,
        "logprobs": facts.logprobs,
        **({} if facts.decimals is None else {"decimals": facts.decimals}),
        "mask": facts.mask,
        "temperature": facts.temperature,
        "unknown": list(facts.unknown),
    }


def write_facts(facts: Facts, store: Store) -> None:
    """Written last: the spool is whole from here on."""
    store.put(FILE, json.dumps(asdict(facts), indent=1).encode())


def read_facts(store: Store) -> Facts | None:
    """What an earlier call of the same import found out; None where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(store.read(FILE))
        given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in found.items()}
        return Facts(**given)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def _check_usable(form: Format, known: Known, index: Index, *, tokenizer: bool) -> None:
    if known.rows == 0:
        raise ImportSourceError(
            f"none of the {len(index.rejected)} rows is one of format {form.name}, so there is nothing to import. "
            "Check the format; `passrl import --guess FILE` proposes a mapping."
        )
    if len(known.models) > 1:
        raise ImportSourceError(
            f"the rollouts are of several models ({', '.join(sorted(known.models)[:4])}): ids and log-probabilities of "
            "one mean nothing to another. Import each model's file by itself."
        )
    if tokenizer:
        return
    if known.steps:
        raise ImportSourceError(
            "rows have labelled steps, which are stored by the tokens they end at. Give --tokenizer FOLDER, the "
            "policy's."
        )
    if not known.all_have("text") or not known.all_have("task"):
        raise ImportSourceError(
            f"rows of format {form.name} hold token ids without their texts, which people and verifiers read. Give "
            "--tokenizer FOLDER, the policy's, by which they are decoded."
        )


def _logprobs(form: Format, known: Known) -> tuple[str, int | None]:
    """How exact they are, and the decimals of rounded ones.

    What the format says counts, unless enough values prove that it is wrong; where it does not know, round values are
    rounded ones, however few: a trainer then asks, which costs less than a ratio that is off.
    """
    if not known.has["logprobs"]:
        return "absent", None
    rounded = known.decimals is not None and (form.logprobs == "detect" or known.proves_rounding)
    return ("rounded", known.decimals) if rounded else ("exact", None)


def _temperature(known: Known, given: float | None) -> tuple[str, float | None]:
    found = known.temperatures
    if len(found) == 1 and None not in found:
        (said,) = found
        if given is not None and given != said:
            raise ImportSourceError(
                f"the source says that it was sampled at temperature {said}, --temperature says {given}. Leave it out."
            )
        return "source", said
    if len(found - {None}) > 1:
        raise ImportSourceError(
            f"the rollouts were sampled at {len(found - {None})} temperatures, and a dataset has one. Import the "
            "rows of one temperature at a time."
        )
    return ("unknown", None) if given is None else ("given", given)


def _signal_names(rewards: Mapping[str, int]) -> dict[str, int]:
    """Names that can be folders. Raises ImportSourceError where two would be one."""
    found: dict[str, int] = {}
    for name, number in rewards.items():
        signal = "".join(letter if letter.isalnum() or letter in "_-.+=@" else "_" for letter in name).strip("._-")
        signal = signal or "reward"
        signal = f"{signal}_reward" if signal in ("prompts", "rollouts", "steps") else signal
        check_name(signal, key=f"reward {name!r}")
        if signal in found:
            raise ImportSourceError(
                f"two rewards would be the signal {signal!r}, {name!r} being one of them; rename a column of the source"
            )
        found[signal] = number
    return found
