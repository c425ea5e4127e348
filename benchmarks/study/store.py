"""Start models and results on disk.

docs/study/models/NAME/      config.json, model.safetensors (float16: 2 bytes a parameter), card.json
docs/study/results/CELL.parquet
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.demo_models.tokenizer import build_tokenizer
from benchmarks.study.arms import Cell
from benchmarks.study.model import Shape
from benchmarks.study.prm import load_prm
from benchmarks.study.signals import Models
from benchmarks.study.tasks import Split, make_tasks

HOME = Path(__file__).resolve().parents[2] / "docs" / "study"
MODELS, RESULTS = HOME / "models", HOME / "results"
#: of the kept seed, before they are published; not committed
ROLLOUTS = HOME.parents[1] / "runs" / "study" / "rollouts"

SCHEMA = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("lr", pa.float64(), nullable=False),
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("tuning", pa.bool_(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        *[pa.field(name, pa.int64(), nullable=False) for name in ("updates", "rollouts", "tokens")],
        *[pa.field(name, pa.float64(), nullable=False) for name in ("pass1", "pass8")],
        pa.field("correct", pa.list_(pa.int16()), nullable=False),
        pa.field("samples", pa.int32(), nullable=False),
        pa.field("greedy", pa.float64()),
        pa.field("low_temperature", pa.float64()),
        *[pa.field(name, pa.float64()) for name in (
            "length", "truncated", "steps", "padding", "chunks", "entropy", "teacher_kl", "advantage_mean",
            "advantage_std", "clip_share", "grad_norm",
        )],
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("processor_seconds", pa.float64(), nullable=False),
        pa.field("world", pa.string(), nullable=False),
        pa.field("commit", pa.string(), nullable=False),
    ]
)  # fmt: skip


def save_model(folder: Path, parameters: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes weights in float16 and their configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().half().contiguous() for name, tensor in parameters.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    (folder / "config.json").write_text(json.dumps(dict(config), indent=1) + "\n")
    build_tokenizer().save_pretrained(folder)


def load_parameters(folder: Path) -> dict[str, Tensor]:
    """A model's tensors in float32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def load_shape(folder: Path) -> Shape:
    """The sizes of a stored model."""
    config = json.loads((folder / "config.json").read_text())
    return Shape(
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        positions=config["max_position_embeddings"],
    )


def load_models(folder: Path) -> Models:
    """The start models."""
    policy, teacher = (load_parameters(folder / name) for name in ("policy", "teacher"))
    return Models(policy=policy, teacher=teacher, prm=load_prm(folder / "prm"), shape=load_shape(folder / "policy"))


def world_digest(folder: Path) -> str:
    """16 hex digits of sha256 over the start models' weights and the first tasks."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*/*.safetensors")):
        found.update(file.read_bytes())
    for split in (Split.ROUNDS, Split.EVALUATION):
        for task in make_tasks(16, seed=0, split=split):
            found.update(task.text().encode())
    return found.hexdigest()[:16]


def result_file(folder: Path, cell: Cell) -> Path:
    """Where a cell's result lies once it is finished."""
    return folder / f"{cell.name}.parquet"


def write_result(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the file whole: under another name first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, fresh, compression="zstd")
    fresh.rename(path)


def read_results(folder: Path) -> pa.Table:
    """All finished cells as one table, in order of their names; an empty one where there is none."""
    files = sorted(folder.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, schema=SCHEMA) for file in files]) if files else SCHEMA.empty_table()


def threads(count: int) -> None:
    """How many threads torch takes for this process."""
    torch.set_num_threads(count)
