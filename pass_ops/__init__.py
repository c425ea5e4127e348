"""Process Advantage Signal Shaping (arXiv 2606.29296): from process signals to chunk advantages, on Arrow tables."""

from __future__ import annotations

from pass_ops.config import ShapingConfig, Standardizers, Weights
from pass_ops.distillation import g_opd_scores, opd_scores
from pass_ops.group import Group
from pass_ops.shaping import shape
from pass_ops.spread import token_advantages

__all__ = [
    "Group",
    "ShapingConfig",
    "Standardizers",
    "Weights",
    "g_opd_scores",
    "opd_scores",
    "shape",
    "token_advantages",
]
