"""The page's colours, worked out again: what a value must look like."""

from __future__ import annotations

import math

STEPS = 20
# The paper, and the strongest colour of what is above 0, below 0, and of amounts without a sign.
ENDS = {
    "light": {"paper": (255, 255, 255), "above": (106, 174, 232), "below": (244, 164, 88), "amount": (176, 152, 222)},
    "dark": {"paper": (23, 25, 29), "above": (27, 92, 160), "below": (148, 74, 8), "amount": (100, 70, 150)},
}
INK = {"light": (27, 29, 33), "dark": (233, 235, 238)}


def css(value: float, limit: float, *, scheme: str = "light", amount: bool = False) -> str:
    """The computed background of a token with this value, where colours are strongest at `limit`."""
    if math.isnan(value) or value == 0:
        return "rgba(0, 0, 0, 0)"
    ends = ENDS[scheme]
    step = max(1, _half_up(min(abs(value) / limit, 1.0) * STEPS))
    end = ends["amount"] if amount else ends["above"] if value > 0 else ends["below"]
    mixed = (_half_up(paper + (last - paper) * (step / STEPS)) for paper, last in zip(ends["paper"], end, strict=True))
    return "rgb({}, {}, {})".format(*mixed)


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Contrast of two colours by WCAG 2.2: 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: tuple[int, ...]) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)
