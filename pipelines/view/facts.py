"""What the file says of its datasets beside their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset, open_dataset
from pass_ops.shards.paths import resolve_folder
from pipelines.view.columns import Column


def reasons_said(why: Mapping[str, int]) -> str | None:
    """Why some arithmetic is not in the file; None where all of it is."""
    return "; ".join(f"{reason} ({count:,} times)" for reason, count in why.items()) or None


def dataset_facts(dataset: CompleteDataset) -> dict[str, Any]:
    """The head's dataset."""
    carried = dataset.spec.carried
    return {
        "url": dataset.url,
        "content_digest": dataset.content_digest,
        "round": carried.get("round"),
        "policy_digest": carried.get("policy_digest"),
        "groups": dataset.manifest.totals["groups"],
        "rollouts": dataset.manifest.totals["rows"],
        "tokens": dataset.manifest.totals["tokens"],
        "imported": carried.get("imported"),
    }


def empty_table(dataset: CompleteDataset) -> pa.Table:
    """A table without rows that has the dataset's columns; without columns where the dataset has no part."""
    if not dataset.parts:
        return pa.table({})
    with dataset.open_part(0) as file:
        return file.schema_arrow.empty_table()


def own_logprobs(dataset: CompleteDataset, columns: Sequence[Column]) -> list[str]:
    """Log-prob columns whose signal ran the very policy that sampled, as far as the signals can still be asked."""
    held = dataset.spec.carried.get("signals") or {}
    found = []
    for column in columns:
        name = column.name.removesuffix("_logprobs")
        name = (held.get("reference") or name) if name == "reference" else name
        ref = dataset.spec.inputs.get(name)
        if column.kind != "logprob" or ref is None:
            continue
        try:
            models = open_dataset(resolve_folder(dataset.url, ref.folder)).spec.models
        except (PassError, OSError):
            continue  # moved without its inputs
        if any(model.digest == dataset.spec.carried.get("policy_digest") for model in models.values()):
            found.append(column.name)
    return found
