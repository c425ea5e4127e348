"""The project's one error tree.

Every error is a `PassError` and also the standard class it refines, so that `except ValueError` keeps working
for whoever does not know this package. A message states the fact, where it was found, and what to do.
"""

from __future__ import annotations


class PassError(Exception):
    """Root of every error this project raises on purpose."""


# --- shaping (pass_ops.shape and what it is made of) -------------------------------------------------------------


class ShapingError(PassError, ValueError):
    """Something given to shaping cannot be used: root of the errors of `shape`, `token_advantages`, `opd_scores`."""


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


class OutputOverflowError(ShapingError, OverflowError):
    """A shaped value is beyond float32."""
