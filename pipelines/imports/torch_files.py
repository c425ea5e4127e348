"""Files of `torch.save`, which are pickles: loaded so that only tensors, arrays and plain values are built.

torch's weights-only loading runs nothing that a file names, but for a list of functions that build such values. numpy's
for arrays of numbers are added here, which miles' dumps hold. A file that needs more is refused.
"""

from __future__ import annotations

import re
import zipfile
from pickle import UnpicklingError
from typing import Any

import numpy as np

from pass_ops.shards import Store
from pipelines.rows.record import RowFileError


def load_plain(url: str, *, advice: str) -> Any:
    """What the file holds. advice: what to do about a file that is refused. Raises RowFileError."""
    import torch

    try:
        with Store(url).open("") as stream, torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except (
        UnpicklingError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise RowFileError(
            f"{url} was not loaded: it is no torch file, or holds more than tensors, arrays and plain values"
            f"{_needed(error)}. {advice}"
        ) from error


def plain(value: Any) -> Any:
    """A tensor or an array as a list, a number of numpy's as one of Python's, a list of them likewise."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _needed(error: Exception) -> str:
    """What the file asked for, out of torch's message, whose advice is to load it unsafely."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" (it needs {found[1]})" if found else ""


def _numpy_globals() -> list[Any]:
    """What rebuilds an array of numbers, under the names of numpy 1 and of numpy 2."""
    rebuild, scalar = np.zeros(0).__reduce__()[0], np.float32(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [
        *((rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *(np.ndarray, np.dtype, *kinds),
    ]
