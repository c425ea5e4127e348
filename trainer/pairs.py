"""Prompts and completions from Parquet, presented as shaped data: examples to imitate, of advantage 1.

A file has a column `prompt`, text or a list of messages (role, content), and a column `completion`, text. Text prompts
are encoded as they are, messages by the policy's chat template; the end-of-text token is appended to a completion. One
row group is one part; a row with a null counts as not trainable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import TrainDataError
from trainer.model_folder import base_folder

COLUMNS = ("prompt", "completion")


@dataclass(frozen=True)
class PairData:
    """Several files as one list of parts, with the columns of `trainer.data.ShapedData`."""

    urls: tuple[str, ...]
    policy: str  # its tokenizer encodes them
    places: tuple[tuple[int, int], ...]  # part -> (file, row group)

    @cached_property
    def digests(self) -> list[str]:
        """sha256 of each file, and of the tokenizer's."""
        return [*map(_sha256, self.urls), *map(_sha256, sorted(map(str, base_folder(self.policy).glob("tokenizer*"))))]

    @cached_property
    def tokenizer(self) -> Any:
        """The policy's."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(base_folder(self.policy), local_files_only=True)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Part `part` with these columns of a shaped dataset."""
        file, group = self.places[part]
        with fsspec.open(self.urls[file], "rb") as stream:  # Python's, so none of Arrow's threads may hold on to it
            pairs = pq.ParquetFile(stream).read_row_group(group, columns=list(COLUMNS), use_threads=False)
        rows = pairs.to_pylist()
        return _table(rows, self.tokenizer, prefix=f"{file}-{group}").select(list(columns))

    def describe(self, part: int) -> str:
        """Where a part is, for messages."""
        file, group = self.places[part]
        return f"{self.urls[file]}, row group {group}"


def open_pairs(pairs: Sequence[str], policy: str) -> PairData:
    """Raises TrainDataError where a file is missing, is no Parquet file, or lacks a column."""
    if isinstance(pairs, str):
        raise TrainDataError(f"pairs is the text {pairs!r}; give a list of Parquet files: [{pairs!r}].")
    if not pairs:
        raise TrainDataError("No file of pairs was given; there is nothing to train on.")
    places = tuple((f, i) for f, url in enumerate(pairs) for i in range(_row_groups(url)))
    return PairData(tuple(pairs), policy, places)


def _table(rows: Sequence[dict[str, Any]], tokenizer: Any, *, prefix: str) -> pa.Table:
    whole = [row["prompt"] is not None and row["completion"] is not None for row in rows]
    prompts = [_prompt_ids(row["prompt"], tokenizer) if ok else [] for row, ok in zip(rows, whole, strict=True)]
    completions = [
        [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] if ok else []
        for row, ok in zip(rows, whole, strict=True)
    ]
    ids = [f"{prefix}-{i}" for i in range(len(rows))]
    lengths = list(map(len, completions))
    lists = {
        "prompt_token_ids": (prompts, pa.int32()),
        "token_ids": (completions, pa.int32()),
        "loss_mask": ([[True] * n for n in lengths], pa.bool_()),
        "behavior_logprobs": ([[0.0] * n for n in lengths], pa.float32()),
        "chunk_ends": ([[n] if n else [] for n in lengths], pa.int32()),
        "chunk_advantages": ([[1.0] if n else [] for n in lengths], pa.float32()),
    }
    columns = {name: pa.array(values, pa.list_(kind)) for name, (values, kind) in lists.items()}
    flat = {"group_id": ids, "rollout_id": ids, "trainable": pa.array(whole), "round": pa.array([0] * len(rows))}
    return pa.table({**flat, **columns})


def _prompt_ids(prompt: str | list[dict[str, str]], tokenizer: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False))


def _row_groups(url: str) -> int:
    try:
        with fsspec.open(url, "rb") as stream:
            metadata = pq.read_metadata(stream)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise TrainDataError(f"{url} cannot be read as a Parquet file: {error}. Give files of pairs.") from error
    names = metadata.schema.to_arrow_schema().names
    if missing := [name for name in COLUMNS if name not in names]:
        raise TrainDataError(
            f"{url} has no column {', '.join(missing)} (it has {', '.join(names)}). Supervised training needs the "
            "columns prompt and completion; rename yours."
        )
    return int(metadata.num_row_groups)


def _sha256(url: str) -> str:
    digest = hashlib.sha256(Path(url).name.encode())
    with fsspec.open(url, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
