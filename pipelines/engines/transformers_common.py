"""What the transformers engine's two backends, for sampling and for pooling, share."""

from __future__ import annotations

from pipelines.engines.base import EngineOptionError, EngineOptions


def batch_size(options: EngineOptions) -> int:
    """Rows of a batch: extra.batch_size, else 32 at most. Raises EngineOptionError."""
    unknown = set(options.extra) - {"batch_size"}
    if unknown:
        raise EngineOptionError(f"extra.{min(unknown)} is no option of the transformers engine; it has batch_size.")
    size = int(options.extra.get("batch_size", min(options.max_num_seqs or 32, 32)))
    if size < 1:
        raise EngineOptionError(f"extra.batch_size is {size}; it must be 1 or more.")
    return size
