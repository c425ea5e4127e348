"""Drawings as files: in the format that their name says, and the same bytes each time."""

from __future__ import annotations

import io
from pathlib import PurePath
from typing import Any

from pass_ops.errors import PassError

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"

#: suffix -> what would differ from one drawing to the next and is left out
FORMATS: dict[str, dict[str, None]] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}


class PictureFormatError(PassError, ValueError):
    """A picture's name ends in a suffix that no picture is written in."""


def picture_format(name: str) -> str:
    """The suffix that says a picture's format.

    Raises PictureFormatError.

    >>> picture_format("runs/mine/training.PNG")
    '.png'
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in FORMATS:
        raise PictureFormatError(
            f"{name} ends in {suffix or 'no suffix'}, so it is not clear what to write; pictures are written as "
            f"{', '.join(FORMATS)}: end the name in one of them"
        )
    return suffix


def picture_bytes(figure: Any, suffix: str) -> bytes:
    """A matplotlib figure in the format of `picture_format`."""
    sink = io.BytesIO()
    figure.savefig(sink, format=suffix[1:], metadata=FORMATS[suffix])
    return sink.getvalue()
