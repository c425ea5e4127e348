"""The header of a safetensors file: an 8-byte little-endian length, then JSON. Read here, so that looking at a model
folder needs no package of the models.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from pass_ops.errors import PassError

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit


class ModelFilesError(PassError, ValueError):
    """A model folder lacks a file it needs, or the file cannot be read."""


def safetensors_header(file: Path) -> dict[str, Any]:
    """Name of each tensor -> its dtype, shape and place in the file, as the header has it; no weights are read.

    "__metadata__" is among the names. Raises ModelFilesError.
    """
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        raw = stream.read(length) if 0 < length <= HEADER_LIMIT else b""
    try:
        if len(raw) != length or not raw:
            raise ValueError("its header is cut off")
        header: dict[str, Any] = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if file.stat().st_size < 8 + length + max(ends, default=0):
            raise ValueError("it is cut off")
    except (KeyError, TypeError, ValueError) as e:
        raise ModelFilesError(f"{file} is not a readable safetensors file: {e}. Copy or save the model again.") from e
    return header
