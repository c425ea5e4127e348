"""verl's rollout dumps (`trainer.rollout_data_dir`, `validation_data_dir`): `{step}.jsonl`.

input, output (decoded without special tokens), gts, score, step, and what the reward function returned besides, one
column each. Newer ones (trainer v1) have uid, "{uid}_{session}_{index}"; older ones tell groups by equal inputs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, rewards_of
from pipelines.rows.fields import FIELDS, encodable, of
from pipelines.rows.record import RowError

_OWN = frozenset({"input", "output", "gts", "step", "uid", "request_id"})


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The row's rollout."""
    yield Record(
        prompt=encodable(of(row, "input"), "input"),
        text=encodable(of(row, "output"), "output"),
        answer=as_text(row.get("gts"), "gts"),
        group=_group(row, place),
        rewards={"score": number(of(row, "score"), "score"), **rewards_of(row, but=_OWN)},
    )


def _group(row: Mapping[str, Any], place: Place) -> str:
    """What rows of one group have in common, beside the input."""
    uid = row.get("uid")
    if uid is None:
        return f"step-{row.get('step', place.stem)}"
    parts = uid.rsplit("_", 2) if isinstance(uid, str) else []
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise RowError(FIELDS, f'uid is {uid!r}, not "UID_SESSION_INDEX"')
    return parts[0]


VERL = Format(
    name="verl",
    read=read,
    about="verl's rollout dumps, old and new",
    files=(".jsonl",),
    ids="absent",
    logprobs="absent",
    mask="absent",
    group="prompt",
    source="verl 0.10.dev, verl/trainer/ppo/ray_trainer.py and v1/trainer_base.py, _write_generations",
)
