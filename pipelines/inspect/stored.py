"""Stored columns as arrays, and where a run keeps its datasets: what explain, lint and sweep share.

Axes: rollouts of a part (R).
"""

from __future__ import annotations

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


def rightness(part: pa.Table) -> NDArray[np.int8]:
    """1 for a rollout that the verifier found right, 0 for a wrong or unparseable one, -1 where it could not tell.

    Without an outcome signal all are -1.
    """
    right_R = np.full(len(part), -1, np.int8)
    if "verify_status" in part.column_names:
        status_R = part["verify_status"].to_numpy()
        right_R[np.isin(status_R, WRONG)] = 0
        right_R[np.isin(status_R, RIGHT)] = 1
    return right_R
