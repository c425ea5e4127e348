"""PASS in somebody's Beam pipeline: shape groups, read and write datasets of the contract, ask the engine.

Importing this room imports Beam; no other room imports it. `EngineHandler` is imported when it is asked for, since
Beam's inference module imports torch.
"""

from typing import TYPE_CHECKING, Any

from pipelines.beam.assemble import TablesRefused
from pipelines.beam.read_shards import ReadShards
from pipelines.beam.shape_groups import BadGroup, ShapedGroups, ShapeGroups
from pipelines.beam.tables import BadTable, part_of_group
from pipelines.beam.write_shards import NotWritten, WriteShards

if TYPE_CHECKING:
    from pipelines.beam.engine_handler import Completion, EngineHandler, Refused

__all__ = [
    "BadGroup",
    "BadTable",
    "Completion",
    "EngineHandler",
    "NotWritten",
    "ReadShards",
    "Refused",
    "ShapeGroups",
    "ShapedGroups",
    "TablesRefused",
    "WriteShards",
    "part_of_group",
]


def __getattr__(name: str) -> Any:
    if name in ("Completion", "EngineHandler", "Refused"):
        from pipelines.beam import engine_handler

        return getattr(engine_handler, name)
    raise AttributeError(f"module 'pipelines.beam' has no attribute {name!r}")
