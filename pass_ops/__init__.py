"""Process Advantage Signal Shaping (arXiv 2606.29296): from process signals to chunk advantages, on Arrow tables.

Importing the package imports neither numpy nor pyarrow; its names do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass_ops.distillation import g_opd_scores, opd_scores
    from pass_ops.group import Group
    from pass_ops.options.config import ShapingConfig, Standardizers, Weights
    from pass_ops.options.streams import Fused, Stream, Transform
    from pass_ops.shaping import shape
    from pass_ops.spread import token_advantages
    from pass_ops.streams.statistics import Statistics, pool_statistics

_HOMES = {
    "Fused": "options.streams",
    "Group": "group",
    "ShapingConfig": "options.config",
    "Standardizers": "options.config",
    "Statistics": "streams.statistics",
    "Stream": "options.streams",
    "Transform": "options.streams",
    "Weights": "options.config",
    "g_opd_scores": "distillation",
    "opd_scores": "distillation",
    "pool_statistics": "streams.statistics",
    "shape": "shaping",
    "token_advantages": "spread",
}

__all__ = [
    "Fused",
    "Group",
    "ShapingConfig",
    "Standardizers",
    "Statistics",
    "Stream",
    "Transform",
    "Weights",
    "g_opd_scores",
    "opd_scores",
    "pool_statistics",
    "shape",
    "token_advantages",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pass_ops.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pass_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
