"""Which formats there are, and a dataset written in one of them, part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pass_ops import shards
from pass_ops.shards.store import Store
from pass_ops.support.nearest import advice
from pipelines.exports.form import ExportError, ExportFormat, Settings
from pipelines.exports.openai_batch import OPENAI_BATCH
from pipelines.exports.safetensors import SAFETENSORS
from pipelines.exports.slime import SLIME
from pipelines.exports.tables import HUGGINGFACE, TRL
from pipelines.exports.tinker import TINKER
from pipelines.exports.tokens import PRIME_RL, RLLM
from pipelines.exports.verl import VERL

FORMATS = {one.name: one for one in (HUGGINGFACE, TRL, VERL, PRIME_RL, RLLM, SLIME, TINKER, SAFETENSORS, OPENAI_BATCH)}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote: files in order, rows in them, and rows of the dataset that the format has no place for."""

    files: tuple[str, ...]
    rows: int
    left_out: int


def export_format(name: str) -> ExportFormat:
    """The format of a name. Raises ExportError, which lists them."""
    if name not in FORMATS:
        raise ExportError(
            f"there is no format to export to that is called {name!r}; {advice(name, FORMATS, listed=True)}"
        )
    return FORMATS[name]


def export(form: ExportFormat, url: str, out: str, *, settings: Settings | None = None) -> Exported:
    """Write a finished dataset in a format, one file a part, each whole or not there; memory holds one part.

    Args:
        form: the format.
        url: a dataset's folder or URL: of shaped rollouts, or of prompts where the format takes these.
        out: a folder or URL, new or empty.
        settings: what the format lets one choose.

    Raises:
        ExportError: the dataset is of another stage, a setting is unknown or missing, or `out` holds files.
        UnknownColumnError: an import left unknown what the format needs.
        ShardError: the dataset is not finished or damaged.
    """
    settings = settings or {}
    _check_settings(form, settings)
    dataset = shards.open_dataset(url)
    if dataset.spec.stage != form.stage:
        raise ExportError(
            f"{url} is a dataset of stage {dataset.spec.stage!r}, and the format {form.name!r} is made from stage "
            f"{form.stage!r}; name such a dataset (RUN/round-000/shaped, RUN/prompts)"
        )
    dataset.spec.require_known(form.needs_known, where=url, purpose=f"the format {form.name}")
    store = Store(out)
    if store.entries() or store.folders():
        raise ExportError(f"{out} holds files already, which would mix with the export's; name a new folder")
    files, rows, read = [], 0, 0
    for part in range(len(dataset.parts)):
        table = dataset.read_part(part, _present(dataset, part, form))
        written, content = form.encode(table, dataset, settings)
        store.put(form.file.format(part=part), content)
        files.append(form.file.format(part=part))
        rows, read = rows + written, read + table.num_rows
    for name, content in (form.beside(dataset, rows) if form.beside else {}).items():
        store.put(name, content)
        files.append(name)
    return Exported(files=tuple(files), rows=rows, left_out=read - rows)


def parsed_settings(given: Sequence[str]) -> Mapping[str, object]:
    """KEY=VALUE pairs; a value is read as JSON where it is JSON, else as text. Raises ExportError.

    >>> parsed_settings(["model=org/name", "n=8", "temperature=0.7"])
    {'model': 'org/name', 'n': 8, 'temperature': 0.7}
    """
    found: dict[str, object] = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ExportError(f"--set {setting!r}: expected KEY=VALUE; write --set model=NAME, say")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _present(dataset: shards.CompleteDataset, part: int, form: ExportFormat) -> list[str] | None:
    """The columns to read; None for all."""
    if form.columns is None:
        return None
    with dataset.open_part(part) as file:
        there = set(file.schema_arrow.names)
    return [name for name in form.columns if name in there]


def _check_settings(form: ExportFormat, settings: Settings) -> None:
    for name in settings:
        if name not in form.settings:
            hint = advice(name, form.settings, listed=True) if form.settings else "it has none; leave --set out"
            raise ExportError(f"the format {form.name!r} has no setting {name!r}; {hint}")
    for name in form.needed:
        if name not in settings:
            raise ExportError(
                f"the format {form.name!r} needs the setting {name!r}, {form.settings[name]}; give {name}="
            )
