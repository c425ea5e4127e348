"""`passrl view`: one HTML file in which the credit of stored rollouts can be looked at, under several shapings."""

from __future__ import annotations

import html
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

from pass_ops.reading.stream_sources import Plan
from pass_ops.shards import CompleteDataset
from pipelines.inspect.stored import open_shaped
from pipelines.view.columns import Column, shown_columns
from pipelines.view.compared import Comparison
from pipelines.view.explained import Explained, explain, left_out, plan_of
from pipelines.view.facts import dataset_facts, empty_table, own_logprobs, reasons_said
from pipelines.view.file import view_html
from pipelines.view.groups import group_block, group_line
from pipelines.view.offenders import Looked, Worst, offender_lists
from pipelines.view.options import ViewOptions
from pipelines.view.padding import pieces_of
from pipelines.view.rows import Group, check_same_rollouts, read_groups
from pipelines.view.run_page import run_of, run_page
from pipelines.view.sampling import Sample, sample_groups
from pipelines.view.settings import Setting, settings_of
from pipelines.view.texts import TokenTexts, dataset_texts
from pipelines.view.truth import TruthSource, open_truth_of

PAYLOAD = 1
FRAME_HEIGHT = 600
Mode = Literal["file", "group"]


@dataclass(frozen=True)
class View:
    """One HTML file, made: its head (docs/reference/view-payload.md), and its bytes. In a notebook it shows itself."""

    head: Mapping[str, Any]
    content: bytes

    def _repr_html_(self) -> str:
        """The file in a frame of its own, whose scripts reach nothing outside it."""
        source = html.escape(self.content.decode())
        style = f"width:100%;height:{FRAME_HEIGHT}px;border:0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe>'


def make_view(
    urls: Sequence[str],
    *,
    options: ViewOptions | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    round_index: int = 0,
    mode: Mode = "file",
    progress: Callable[[int, int], None] | None = None,
) -> View:
    """The file; the same bytes for the same datasets and options.

    Args:
        urls: shaped datasets of the same rollouts, or RUNs, whose round `round_index` is meant; the first one decides
            what is shown, the others are compared with it.
        options: what goes into the file (default: `ViewOptions()`).
        grid: further settings over what the first one stores, as `passrl sweep` takes them (`parse_grid`).
        round_index: of RUNs.
        mode: "group" leaves out the page of the run; the page opens at its first group.
        progress: called with (groups done, groups).

    Raises:
        NotShapedError, NotADatasetError, IncompleteDatasetError: a dataset that cannot be shown.
        WrongInputError: datasets of other rollouts, a truth or a grid that they do not hold.
        UnknownGroupError, NotARunError, OtherTokenizerError, ConfigError, OptionError: what was asked for is not there.
    """
    asked = options or ViewOptions()
    datasets = [open_shaped(url, round_index=round_index) for url in urls]
    check_same_rollouts(datasets)
    main, settings = datasets[0], settings_of(datasets, grid or {})
    sample = sample_groups(
        main, names=asked.groups, max_rollouts=asked.max_rollouts, max_tokens=asked.max_tokens, seed=asked.seed
    )
    maker = _Maker.of(main, settings, asked)
    for group in read_groups(datasets, sample.places, settings):
        maker.add(group)
        if progress:
            progress(group.number + 1, len(sample.places))
    run = None if mode == "group" else asked.run or run_of(main)
    head = {
        "payload": PAYLOAD,
        "passrl": version("passrl"),
        "title": asked.title or f"Credit: {posixpath.join(*main.url.split(posixpath.sep)[-3:])}",
        "mode": mode,
        "datasets": [dataset_facts(dataset) for dataset in datasets],
        "settings": [setting.plain for setting in settings],
        **maker.head(sample),
        "run": None if run is None else run_page(run, name=posixpath.basename(main.url.rstrip("/"))),
    }
    return View(head, view_html(head, maker.blocks))


def group_view(url: str, group: str, *, options: ViewOptions | None = None, round_index: int = 0) -> View:
    """One group for a notebook, where the result shows itself. Raises as `make_view`."""
    asked = replace(options or ViewOptions(), groups=(group,))
    return make_view([url], options=asked, round_index=round_index, mode="group")


@dataclass(kw_only=True)
class _Maker:
    """Adds up what is said of the groups, one after the other; blocks: one a group."""

    columns: Sequence[Column]
    texts: TokenTexts | None
    texts_note: str
    truth: TruthSource | None
    lists: Sequence[Worst]
    comparisons: Sequence[Comparison]
    blocks: list[bytes] = field(default_factory=list)
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _left_out: dict[str, int] = field(default_factory=dict)
    _plans: dict[int, Plan | None] = field(default_factory=dict)  # setting -> that of the first group it explains

    @staticmethod
    def of(dataset: CompleteDataset, settings: Sequence[Setting], asked: ViewOptions) -> _Maker:
        """For the groups of a dataset. Raises what opening its tokenizer and its truth does."""
        texts, note = dataset_texts(dataset, folder=asked.tokenizer)
        columns = shown_columns(empty_table(dataset))
        return _Maker(
            columns=columns,
            texts=texts,
            texts_note=note,
            truth=open_truth_of(dataset, asked.truth) if asked.truth is not None else None,
            lists=offender_lists(settings, columns, truth=asked.truth, own=own_logprobs(dataset, columns)),
            comparisons=[Comparison(number) for number in range(1, len(settings))],
        )

    def add(self, group: Group) -> None:
        """One group: its line, its block, its offenders, its part of the comparisons."""
        truth_N = self.truth.advantages(group) if self.truth is not None else None
        explained: list[Explained | None] = []
        for number, shaped in enumerate(group.shaped):
            why = left_out(group, shaped.setting.config)
            if why is not None:
                self._left_out[why] = self._left_out.get(why, 0) + 1
                explained.append(None)
                continue
            if number not in self._plans:
                self._plans[number] = plan_of(shaped)
            explained.append(explain(shaped, self._plans[number]))
        self._lines.append(group_line(group))
        self.blocks.append(
            group_block(group, columns=self.columns, texts=self.texts, explained=explained, truth_N=truth_N)
        )
        looked = Looked(group, pieces_of(self.columns, self.texts), truth_N)
        for worst in self.lists:
            worst.add(looked)
        for comparison in self.comparisons:
            comparison.add(group)

    def head(self, sample: Sample) -> dict[str, Any]:
        """What the head says of the groups. sample: as they were chosen."""
        truth = [Column("truth", "truth").plain] if self.truth is not None else []
        return {
            "columns": [*(column.plain for column in self.columns), *truth],
            "token_texts": "none" if self.texts is None else "tokenizer",
            "token_texts_note": self.texts_note,
            "sampling": {
                "groups": len(sample.places),
                "of": sample.groups,
                "rollouts": sum(line["rollouts"] for line in self._lines),
                "rule": sample.rule,
            },
            "explain_left_out": reasons_said(self._left_out),
            "groups": self._lines,
            "comparisons": [comparison.plain for comparison in self.comparisons],
            "offenders": [worst.plain for worst in self.lists],
        }
