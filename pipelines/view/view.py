"""`passrl view`: one HTML file in which the credit of stored rollouts can be looked at, from one or several shapings."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any

import pyarrow as pa
from annotated_types import Ge

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset, open_dataset
from pass_ops.shards.paths import resolve_folder
from pipelines.inspect.stored import open_shaped
from pipelines.options import ConfigError
from pipelines.options import options as option_class
from pipelines.options.types import Seed, Strings
from pipelines.view.columns import Column, shown_columns
from pipelines.view.compared import Comparison
from pipelines.view.explained import explain, left_out
from pipelines.view.file import view_html
from pipelines.view.groups import group_block, group_line
from pipelines.view.offenders import Looked, Worst, offender_lists
from pipelines.view.padding import pieces_of
from pipelines.view.rows import Group, check_same_rollouts, read_groups
from pipelines.view.run_page import run_of, run_page
from pipelines.view.sampling import Sample, sample_groups
from pipelines.view.settings import Setting, settings_of
from pipelines.view.texts import TokenTexts
from pipelines.view.tokenizer import dataset_texts
from pipelines.view.truth import TruthSource, open_truth_of

PAYLOAD = 1


@option_class(ConfigError)
class ViewOptions:
    """What goes into the file."""

    groups: Strings = ()
    """Names of the groups to show (default: all, or a sample within the limits)."""
    max_rollouts: Annotated[int, Ge(1)] = 1_000
    """Rollouts in the file at most; whole groups are drawn."""
    max_tokens: Annotated[int, Ge(1)] = 500_000
    """Tokens in the file at most."""
    seed: Seed = 0
    """Seed of that draw."""
    truth: str | None = None
    """Name of the truer process signal that advantages are held against. Example: "execution"."""
    tokenizer: str | None = None
    """The policy's folder, for the tokens' texts (default: the one recorded)."""
    run: str | None = None
    """RUN folder of the run page (default: the one that the first dataset lies in)."""
    title: str | None = None
    """Title of the file."""


@dataclass
class _Made:
    """What the groups add to, one after the other."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def write_view(
    urls: Sequence[str],
    *,
    options: ViewOptions | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    round_index: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """The file's bytes; the same for the same datasets and options.

    Args:
        urls: shaped datasets of the same rollouts, or RUNs, whose round `round_index` is meant; the first one decides
            what is shown, the others are compared with it.
        options: what goes into the file (default: `ViewOptions()`).
        grid: further settings over what the first one stores, as `passrl sweep` takes them (`parse_grid`).
        round_index: of RUNs.
        progress: called with (groups done, groups).

    Raises:
        NotShapedError, NotADatasetError, IncompleteDatasetError: a dataset that cannot be shown.
        WrongInputError: datasets of other rollouts, a truth or a grid that they do not hold.
        UnknownGroupError, NotARunError, OtherTokenizerError, ConfigError, OptionError: what was asked for is not there.
    """
    asked = options or ViewOptions()
    datasets = [open_shaped(url, round_index=round_index) for url in urls]
    check_same_rollouts(datasets)
    sample = sample_groups(
        datasets[0], names=asked.groups, max_rollouts=asked.max_rollouts, max_tokens=asked.max_tokens, seed=asked.seed
    )
    head, blocks = _payload(datasets, settings_of(datasets, grid or {}), sample, asked, progress=progress)
    return view_html(head, blocks)


def _payload(
    datasets: Sequence[CompleteDataset],
    settings: Sequence[Setting],
    sample: Sample,
    asked: ViewOptions,
    *,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Any], list[bytes]]:
    """The head and the groups' blocks."""
    main = datasets[0]
    texts, note = dataset_texts(main, folder=asked.tokenizer)
    columns = shown_columns(_empty(main))
    truth = open_truth_of(main, asked.truth) if asked.truth is not None else None
    lists = offender_lists(settings, columns, truth=asked.truth, own=_own_logprobs(main, columns))
    comparisons = [Comparison(number) for number in range(1, len(settings))]
    made = _Made()
    for group in read_groups(datasets, sample.places, settings):
        _add(made, group, columns=columns, texts=texts, truth=truth, lists=lists)
        for comparison in comparisons:
            comparison.add(group)
        if progress:
            progress(group.number + 1, len(sample.places))
    run = asked.run or run_of(main)
    truths = [Column("truth", "truth").plain | {"label": f"A* of {asked.truth}"}] if truth is not None else []
    head = {
        "payload": PAYLOAD,
        "passrl": version("passrl"),
        "title": asked.title or f"Credit: {settings[0].name}",
        "mode": "file",
        "datasets": [_dataset(dataset) for dataset in datasets],
        "settings": [setting.plain for setting in settings],
        "columns": [*(column.plain for column in columns), *truths],
        "token_texts": "none" if texts is None else "tokenizer",
        "token_texts_note": note,
        "sampling": {
            "groups": len(sample.places),
            "of": sample.groups,
            "rollouts": sum(line["rollouts"] for line in made.lines),
            "rule": sample.rule,
        },
        "explain_left_out": _said(made.left_out),
        "groups": made.lines,
        "comparisons": [comparison.plain for comparison in comparisons],
        "offenders": [worst.plain for worst in lists],
        "run": None if run is None else run_page(run, name=posixpath.basename(main.url.rstrip("/"))),
    }
    return head, made.blocks


def _add(
    made: _Made,
    group: Group,
    *,
    columns: Sequence[Column],
    texts: TokenTexts | None,
    truth: TruthSource | None,
    lists: Sequence[Worst],
) -> None:
    """One group: its line, its block, its offenders."""
    truth_N = truth.advantages(group) if truth is not None else None
    explained = []
    for shaped in group.shaped:
        why = left_out(group, shaped.setting.config)
        if why is not None:
            made.left_out[why] = made.left_out.get(why, 0) + 1
        explained.append(explain(shaped) if why is None else None)
    made.lines.append(group_line(group))
    made.blocks.append(group_block(group, columns=columns, texts=texts, explained=explained, truth_N=truth_N))
    looked = Looked(group, pieces_of(columns, texts), truth_N)
    for worst in lists:
        worst.add(looked)


def _said(why: Mapping[str, int]) -> str | None:
    """Why some arithmetic is not in the file; None where all of it is."""
    return "; ".join(f"{reason} ({count:,} times)" for reason, count in why.items()) or None


def _dataset(dataset: CompleteDataset) -> dict[str, Any]:
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


def _empty(dataset: CompleteDataset) -> pa.Table:
    """A table without rows that has the dataset's columns; without columns where the dataset has no part."""
    if not dataset.parts:
        return pa.table({})
    with dataset.open_part(0) as file:
        return file.schema_arrow.empty_table()


def _own_logprobs(dataset: CompleteDataset, columns: Sequence[Column]) -> list[str]:
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
