"""The project's one error tree.

Every error is a `PassError` and also the standard class it refines, so that `except ValueError` keeps working
for callers who do not know this package. A message states the fact, where it was found, and what to do.
"""

from __future__ import annotations


class PassError(Exception):
    """Root of every error this project raises on purpose.

    place: the file, URL, key or option it is about. fix: what to do. Both stand in the message too; they are None
    where whoever raised it did not say them apart.
    """

    def __init__(self, *args: object, place: str | None = None, fix: str | None = None) -> None:
        super().__init__(*args)
        self.place, self.fix = place, fix


# --- shaping (pass_ops.shape and what it is made of) -------------------------------------------------------------


class ShapingError(PassError, ValueError):
    """Shaping cannot use what it was given: root of the errors of `shape`, `token_advantages`, `opd_scores`."""


class OptionError(ShapingError):
    """An option has an unknown name or a value outside its range."""


class MissingColumnError(ShapingError):
    """A column that the chosen options need is not in the table."""


class ColumnTypeError(ShapingError, TypeError):
    """A column's type is not the expected one and cannot be cast to it without loss."""


class LengthMismatchError(ShapingError):
    """Columns of one rollout disagree about its number of tokens or steps."""


class StepEndsError(ShapingError):
    """Step or chunk ends are not strictly increasing, or the last is not the length of the completion."""


class NullValueError(ShapingError):
    """A null where none may be: inside a list, or in a column that every rollout must have."""


class NonFiniteError(ShapingError):
    """NaN or infinity in a score at an unmasked token, in a reward or in a log-probability."""


class GroupOrderError(ShapingError):
    """The rows of one group are not adjacent."""


class EstimatorError(ShapingError):
    """An estimator of your own returned something other than the advantages of its group."""


class StatisticsError(ShapingError):
    """Recorded statistics of a data set do not belong to what is shaped with them."""


class OutputOverflowError(ShapingError, OverflowError):
    """A shaped value is beyond float32."""


# --- shards (pass_ops.shards: the dataset protocol) --------------------------------------------------------------


class ShardError(PassError):
    """A stored dataset, or an operation on one, is not as it must be: root of the errors of `pass_ops.shards`."""


class SpecError(ShardError, ValueError):
    """A `DatasetSpec` cannot describe a dataset: unknown stage, no parts, an option that is no plain JSON value."""


class StoreError(ShardError, OSError):
    """The store refused an operation: full disk, no permission, no hard links. Nothing half-written was published."""


class NotADatasetError(ShardError, FileNotFoundError):
    """The folder holds no `_dataset.json`."""


class CorruptDatasetError(ShardError, ValueError):
    """A file of the dataset is not what the file that names it says: truncated, changed, or of an unknown format."""


class RowsDeletedError(ShardError, LookupError):
    """The rows that were asked for were deleted by a rule, on purpose; the dataset's digests are still there."""


class FingerprintMismatchError(ShardError, ValueError):
    """The folder holds a dataset made with other options or inputs; the message names the fields that differ."""


class ReplacedFingerprintError(ShardError, ValueError):
    """The fingerprint was replaced in this folder before; late writers may still be alive, so it stays refused."""


class IncompleteDatasetError(ShardError, ValueError):
    """The dataset has no manifest: it was not finalized."""


class UnknownColumnError(ShardError, LookupError):
    """What is asked needs a column of imported rollouts that their source does not know; the message says which."""


class StaleInputError(ShardError, ValueError):
    """A dataset this one was made from has other content now than was recorded; the message names which one."""


class PartError(ShardError, ValueError):
    """A table cannot be committed as a part: a column is missing, of another type, or breaks a rule of its stage."""


class NotFinalized(ShardError, RuntimeError):
    """The dataset cannot be finalized yet; `reasons` says why, one line each."""

    def __init__(self, reasons: tuple[str, ...] | list[str], url: str = "") -> None:
        self.reasons = tuple(reasons)
        self.url = url
        where = f"{url} is" if url else "the dataset is"
        super().__init__(f"{where} not finalized: " + "; ".join(self.reasons), place=url or None)

    def __reduce__(self) -> tuple[type[NotFinalized], tuple[tuple[str, ...], str]]:
        return type(self), (self.reasons, self.url)
