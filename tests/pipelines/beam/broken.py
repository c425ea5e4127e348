"""Estimators with a fault."""

from __future__ import annotations

import importlib

import numpy as np

from pass_ops import Group, ShapingConfig


def breaks_on_bad(group: Group, _config: ShapingConfig) -> list[np.ndarray]:
    ones = [np.ones(len(mask)) for mask in group.mask]
    return [one / (1 // int(group.group_id != "bad")) for one in ones]


def lacks_a_module(_group: Group, _config: ShapingConfig) -> list[np.ndarray]:
    return list(importlib.import_module("nowhere_to_be_found").ones)
