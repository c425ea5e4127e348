"""The types of options that several sections share: bounds, and lists that are kept as tuples."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Strict

from trainer.options import AtLeastOne, Positive

__all__ = ["AtLeastOne", "Positive", "Share", "Strings", "ZeroOrMore"]

ZeroOrMore = Annotated[int, Ge(0)]
#: a part of the whole, from 0 to 1
Share = Annotated[float, Ge(0), Le(1)]
#: a list of strings, kept as a tuple
Strings = Annotated[tuple[str, ...], Strict(False)]
