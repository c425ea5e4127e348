"""Process Advantage Signal Shaping (arXiv 2606.29296): from process signals to chunk advantages, on Arrow tables.

Importing the package imports neither numpy nor pyarrow; its names do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass_ops.config import ShapingConfig, Standardizers, Weights
    from pass_ops.distillation import g_opd_scores, opd_scores
    from pass_ops.group import Group
    from pass_ops.shaping import shape
    from pass_ops.spread import token_advantages

_HOMES = {
    "Group": "group",
    "ShapingConfig": "config",
    "Standardizers": "config",
    "Weights": "config",
    "g_opd_scores": "distillation",
    "opd_scores": "distillation",
    "shape": "shaping",
    "token_advantages": "spread",
}

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"pass_ops.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pass_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
