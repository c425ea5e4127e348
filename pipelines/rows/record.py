"""What becomes of a row that is not what its format says."""

from __future__ import annotations

from dataclasses import dataclass

from pass_ops.errors import PassError


class RowFileError(PassError, ValueError):
    """A file of rows cannot be opened or read, or is of no known kind."""


class RowError(ValueError):
    """A row is not what its format says. reason: a short name, for counting; the message says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRow:
    """A row that could not be used: where it stands, a short name for why, and what was found."""

    where: str
    reason: str
    detail: str
