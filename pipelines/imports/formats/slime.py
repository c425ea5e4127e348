"""slime's and miles' rollout dumps (`--save-debug-rollout-data`): torch.save of {rollout_id, samples: [Sample]}.

A sample has group_index, index, prompt, tokens (prompt and completion), response, response_length (the last tokens are
the completion), label, reward (a number or {name: number}), loss_mask and rollout_log_probs of the completion, status.
The file is a pickle; it is loaded with weights_only=True, which builds tensors and plain values and runs nothing else.
A dump that needs more than that is refused.
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any

from pass_ops.shards import Store
from pipelines.imports.check import LENGTHS, finish_reason, number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, said_or_text
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.read import SourceRow
from pipelines.rows.record import RejectedRow, RowError, RowFileError

_AGAIN = "Export the samples as JSON lines where they were made, and import those with `rows`."


def rows(url: str) -> Iterator[SourceRow | RejectedRow]:
    """The samples of a dump. Raises RowFileError where it is none, or holds what weights-only loading refuses."""
    import torch

    try:
        with Store(url).open("") as stream:
            dump = torch.load(stream, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise RowFileError(
            f"{url} was not loaded: it is no torch file, or holds more than tensors and plain values "
            f"({str(error).splitlines()[0][:200]}). {_AGAIN}"
        ) from error
    samples = dump.get("samples") if isinstance(dump, Mapping) else None
    if not isinstance(samples, list):
        raise RowFileError(f"{url} holds no list of samples. {_AGAIN}")
    name = posixpath.basename(url)
    for number_, sample in enumerate(samples):
        where = f"{name} sample {number_}"
        if isinstance(sample, Mapping):
            yield SourceRow(where=where, number=number_, values=_plain(sample))
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
    status = row.get("status")
    yield Record(
        text=as_text(row.get("response"), "response"),
        prompt_token_ids=ids[:-length],
        token_ids=ids[-length:],
        logprobs=row.get("rollout_log_probs"),
        loss_mask=[1] * length if row.get("loss_mask") is None else row["loss_mask"],
        group=f"{place.stem}-{group}",
        answer=as_text(row.get("label"), "label"),
        finish_reason=finish_reason(status),
        rewards=_rewards(row.get("reward")),
        **(said_or_text(row["prompt"], "prompt") if of(row, "prompt") != "" else {}),  # "" is what Sample begins with
    )


def _rewards(given: Any) -> dict[str, float | None]:
    if isinstance(given, Mapping):
        return {str(name): number(value, name) for name, value in given.items() if isinstance(value, int | float)}
    return {"reward": number(given, "reward")}


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as lists."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in sample.items()}


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
    source="THUDM/slime, slime/observability/rollout_data_utils.py and slime/utils/types.py; miles likewise",
)
