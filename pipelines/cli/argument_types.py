"""What the text of an argument means, where that is more than a string: argparse's `type` functions."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.runs.fits import Cards

ROUND_DIGITS = 6


def gpus(text: str) -> Cards:
    """GPUs of one size, as an argument type."""
    from pipelines.runs.fits import parse_cards

    try:
        return parse_cards(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def round_number(text: str) -> int:
    """A round's number, as an argument type: 0 or more."""
    return _within(0, text)


def round_count(text: str) -> int:
    """A number of rounds, as an argument type: 1 or more."""
    return _within(1, text)


def folder_name(text: str) -> str:
    """A name that becomes a folder, as an argument type."""
    from pipelines.options.types import check_name

    try:
        return check_name(text, key="it")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> float:
    """The number that a text is; NaN, which lies within no bounds, where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def share(text: str) -> float:
    """A number from 0 to 1, as an argument type; not NaN, above which nothing lies.

    >>> share("0.05")
    0.05
    """
    found = _number(text)
    if not 0.0 <= found <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, a number from 0 to 1")
    return found


def seconds(text: str) -> float:
    """A time above 0, as an argument type.

    >>> seconds("0.5")
    0.5
    """
    found = _number(text)
    if not 0.0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found


def whole_numbers(text: str) -> list[int]:
    """Whole numbers of 1 or more between commas, as an argument type.

    >>> whole_numbers("1,8")
    [1, 8]
    """
    return [_within(1, one.strip()) for one in text.split(",")]


def plain_numbers(text: str) -> list[float]:
    """Finite numbers between commas, as an argument type.

    >>> plain_numbers("0.5, -1")
    [0.5, -1.0]
    """
    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0,0.5,1")
    return numbers


def _within(least: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= ROUND_DIGITS and int(text) >= least):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of {least} or more, with {ROUND_DIGITS} digits at most"
        )
    return int(text)
