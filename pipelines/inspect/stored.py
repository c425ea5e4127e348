"""Stored columns as arrays, and where a run keeps its datasets: what explain, lint and sweep share.

Axes: rollouts of a part (R).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import ShapingConfig
from pass_ops.errors import NotADatasetError, PassError
from pass_ops.shards import CompleteDataset, DatasetSpec, open_dataset
from pipelines.runs.folders import round_folder

RIGHT = ("ok",)
WRONG = ("wrong", "unparseable")


class NotShapedError(PassError, ValueError):
    """A dataset of another stage was given where a shaped one is needed."""


def open_shaped(url: str, *, round_index: int = 0, name: str = "shaped") -> CompleteDataset:
    """The shaped dataset of a run's round, or the one at `url` itself.

    Raises NotShapedError, NotADatasetError, IncompleteDatasetError.
    """
    try:
        dataset = open_dataset(url)
    except NotADatasetError:
        dataset = open_dataset(round_folder(url, round_index, name))
    if dataset.spec.stage != "shape":
        raise NotShapedError(
            f"{dataset.url} is a dataset of stage {dataset.spec.stage}; advantages are in a shaped one. "
            "Run `passrl shape` first, or give the run's folder"
        )
    return dataset


def shaping_config(spec: DatasetSpec) -> ShapingConfig:
    """The shaping options that a shaped dataset was made with."""
    return ShapingConfig.from_plain({name: value for name, value in spec.options.items() if name != "code"})


def verify_column(names: Collection[str], config: ShapingConfig | None = None) -> str | None:
    """The column with the verifier's status: that of the outcome signal, or where streams alone name it, of theirs that
    says which rollouts are right.
    """
    prefixed = f"{config.right}_verify_status" if config is not None and config.streams is not None else ""
    return next((name for name in ("verify_status", prefixed) if name in names), None)


def rightness(part: pa.Table, config: ShapingConfig | None = None) -> NDArray[np.int8]:
    """1 for a rollout that the verifier found right, 0 for a wrong or unparseable one, -1 where it could not tell.

    Without an outcome signal all are -1. config: may name another one (`verify_column`).
    """
    right_R = np.full(len(part), -1, np.int8)
    if (name := verify_column(part.column_names, config)) is not None:
        status_R = part[name].to_numpy()
        right_R[np.isin(status_R, WRONG)] = 0
        right_R[np.isin(status_R, RIGHT)] = 1
    return right_R
