"""Prompts and completions from Parquet, presented as shaped data: examples to imitate, of advantage 1.

A file has a column `prompt`, text or a list of messages (role, content), and a column `completion`, text. Text prompts
are encoded as they are, messages by the policy's chat template; a completion ends with one end-of-text token. One row
group is one part; a row with a null counts as not trainable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import TemplateError

from pass_ops.shards import Store
from pass_ops.support.chat import chat_problem
from trainer.data import Columns, given_urls
from trainer.errors import TrainDataError
from trainer.model_folder import base_folder

COLUMNS = ("prompt", "completion")
LONGEST_TEXT = int(1e30)  # what transformers takes where a tokenizer names none


@dataclass(frozen=True)
class PairData:
    """Several files as one list of parts, with the columns of `trainer.data.ShapedData`."""

    urls: tuple[str, ...]
    policy: str  # its tokenizer encodes them
    places: tuple[tuple[int, int], ...]  # part -> (file, row group)
    sizes: tuple[tuple[int, int], ...]  # rows and bytes of each row group, decompressed

    @cached_property
    def digests(self) -> list[str]:
        """sha256 of each file, and of the tokenizer's."""
        return [*map(_sha256, self.urls), *map(_sha256, sorted(map(str, base_folder(self.policy).glob("tokenizer*"))))]

    @cached_property
    def tokenizer(self) -> Any:
        """The policy's, which knows no longest text: what is too long is refused, masked or dropped (`too_long`), and
        transformers would warn of errors that nobody makes.
        """
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            base_folder(self.policy), local_files_only=True, trust_remote_code=False, model_max_length=LONGEST_TEXT
        )

    @property
    def is_local(self) -> bool:
        """Whether all files lie on disks of this machine."""
        return all(Store(url).is_local for url in self.urls)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Part `part` with these columns of a shaped dataset."""
        return self.fetch(part)(columns)

    def fetch(self, part: int) -> Columns:
        """Part `part`'s texts; they are encoded when its columns are asked for."""
        file, group = self.places[part]
        with Store(self.urls[file]).open("") as stream:  # Python's, so none of Arrow's threads may hold on to it
            pairs = pq.ParquetFile(stream).read_row_group(group, columns=list(COLUMNS), use_threads=False)
        return lambda columns: _table(pairs.to_pylist(), self.tokenizer, prefix=f"{file}-{group}").select(list(columns))

    def rows(self, part: int) -> int:
        """Rows of the part's row group."""
        return self.sizes[part][0]

    def stored_bytes(self, part: int) -> int:
        """Bytes of the part's row group."""
        return self.sizes[part][1]

    def describe(self, part: int) -> str:
        """Where a part is, for messages."""
        file, group = self.places[part]
        return f"{self.urls[file]}, row group {group}"


def open_pairs(pairs: Sequence[str], policy: str) -> PairData:
    """Raises TrainDataError where a file is missing, is no Parquet file, or lacks a column."""
    urls = given_urls(pairs, name="pairs", what="Parquet files")
    sizes = [_row_groups(url) for url in urls]
    places = tuple((f, i) for f, its in enumerate(sizes) for i in range(len(its)))
    return PairData(tuple(urls), policy, places, tuple(chain.from_iterable(sizes)))


def _table(rows: Sequence[dict[str, Any]], tokenizer: Any, *, prefix: str) -> pa.Table:
    whole = [row["prompt"] is not None and row["completion"] is not None for row in rows]
    prompts = [_prompt_ids(row["prompt"], tokenizer) if ok else [] for row, ok in zip(rows, whole, strict=True)]
    completions = [
        _completion_ids(row["completion"], tokenizer) if ok else [] for row, ok in zip(rows, whole, strict=True)
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


def _completion_ids(completion: str, tokenizer: Any) -> list[int]:
    """With one end token, whether or not the text spells it."""
    return [*_without_end(tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer), _end(tokenizer)]


def _prompt_ids(prompt: str | list[dict[str, str]], tokenizer: Any) -> list[int]:
    """As the tokenizer encodes a text, but without an end token it appends: after that a model begins another text."""
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        spelled = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return ids if spelled[-1:] == [_end(tokenizer)] else _without_end(ids, tokenizer)
    if (problem := chat_problem([str(message.get("role")) for message in prompt])) is not None:
        raise TrainDataError(f"The prompt {str(prompt)[:80]} is no chat: {problem[1]}. Mend or remove its row.")
    if not tokenizer.chat_template:
        raise TrainDataError(
            f"The prompt {str(prompt)[:80]} is a list of messages, and the policy's tokenizer has no chat template. "
            "Add chat_template.jinja to the policy's folder, or write prompts as text."
        )
    try:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    except (KeyError, TypeError, ValueError, TemplateError) as error:
        raise TrainDataError(f"The policy's chat template cannot render {str(prompt)[:80]}: {error}.") from error
    return list(ids)


def _without_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    kept = len(ids)
    while kept and ids[kept - 1] == _end(tokenizer):
        kept -= 1
    return list(ids[:kept])


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise TrainDataError(
            f"The tokenizer of {tokenizer.name_or_path} has no end token, so a completion would never end. Set "
            "eos_token in its tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)


def _row_groups(url: str) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    try:
        with Store(url).open("") as stream:
            metadata = pq.read_metadata(stream)
    except (OSError, ValueError, ImportError) as error:  # ArrowInvalid is a ValueError; a scheme may need a package
        raise TrainDataError(f"{url} cannot be read as a Parquet file: {error}. Give files of pairs.") from error
    names = metadata.schema.to_arrow_schema().names
    if missing := [name for name in COLUMNS if name not in names]:
        raise TrainDataError(
            f"{url} has no column {', '.join(missing)} (it has {', '.join(names)}). Supervised training needs the "
            "columns prompt and completion; rename yours."
        )
    for name in COLUMNS:
        kind = metadata.schema.to_arrow_schema().field(name).type
        messages = name == "prompt" and pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
        if not (messages or _is_text(kind)):
            raise TrainDataError(
                f"{url}: the column {name} is of type {kind}. Supervised training needs text, or, as a prompt, a list "
                "of messages (role, content)."
            )
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_null(inner))


def _sha256(url: str) -> str:
    digest = hashlib.sha256(Path(url).name.encode())
    with Store(url).open("") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
