"""slime's and miles' rollout dumps (`--save-debug-rollout-data`): torch.save of {rollout_id, samples: [Sample]}.

A sample has group_index, index, prompt, tokens (prompt and completion), response, response_length (the last tokens are
the completion), label, reward (a number or {name: number}), loss_mask and rollout_log_probs of the completion, status,
remove_sample (no token of it counts). miles' samples may hold routed experts as arrays, which are left, and a dump with
a LoRA adapter, which is an object of miles' own, is refused. The file is a pickle: see `torch_files`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import LENGTHS, finish_reason, number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.torch_files import load_plain, plain
from pipelines.imports.values import as_text, rewards_of, said_or_text
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.read import SourceRow
from pipelines.rows.record import RejectedRow, RowError, RowFileError

_AGAIN = "Export the samples as JSON lines where they were made, and import those with `rows`."


def rows(url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]:
    """The samples of a dump. Raises RowFileError where it is none, or holds what weights-only loading refuses."""
    dump = load_plain(url, advice=_AGAIN)
    samples = dump.get("samples") if isinstance(dump, Mapping) else None
    if not isinstance(samples, list):
        raise RowFileError(f"{url} holds no list of samples. {_AGAIN}")
    name = posixpath.basename(url)
    for number_, sample in enumerate(samples[skip:], start=skip):
        where = f"{name} sample {number_}"
        if isinstance(sample, Mapping):
            yield SourceRow(where=where, number=number_, values={name: plain(one) for name, one in sample.items()})
        else:
            yield RejectedRow(where=where, reason=FIELDS, detail=f"it is a {type(sample).__name__}, not a sample")


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The sample's rollout."""
    ids, length = list_of(row, "tokens"), of(row, "response_length")
    if type(length) is not int or not 0 < length <= len(ids):
        raise RowError(LENGTHS, f"response_length is {length!r}, and there are {len(ids)} tokens")
    group = of(row, "group_index")
    if group is None:
        raise RowError("group", "group_index is null, so it belongs to no group")
    yield Record(
        text=as_text(row.get("response"), "response"),
        prompt_token_ids=ids[:-length],
        token_ids=ids[-length:],
        logprobs=row.get("rollout_log_probs"),
        loss_mask=_mask(row, length),
        group=f"{place.stem}-{group}",
        answer=as_text(row.get("label"), "label"),
        finish_reason=finish_reason(row.get("status")),
        rewards=_rewards(row.get("reward")),
        **(said_or_text(row["prompt"], "prompt") if of(row, "prompt") != "" else {}),  # "" is what Sample begins with
    )


def _mask(row: Mapping[str, Any], length: int) -> Any:
    if row.get("remove_sample"):
        return [0] * length
    return [1] * length if row.get("loss_mask") is None else row["loss_mask"]


def _rewards(given: Any) -> dict[str, float | None]:
    return rewards_of(given) if isinstance(given, Mapping) else {"reward": number(given, "reward")}


SLIME = Format(
    name="slime",
    read=read,
    rows=rows,
    about="slime's and miles' rollout dumps",
    files=(".pt",),
    ids="all",
    logprobs="some",
    mask="counts",
    group="key",
    source="THUDM/slime, slime/observability/rollout_data_utils.py; radixark/miles, miles/ray/rollout/debug_data.py",
)
