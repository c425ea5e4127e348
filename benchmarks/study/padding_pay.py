"""What a padding step earns under Divide-Length, in closed form (paper Eq. 7), by its place, its score and k.

A rollout has K steps of credits a_1..a_K; a padding step of credit d is put at place j (1..K + 1), before step j. With
G_j = a_j + ... + a_K:

    before      A(i) = G_i / (K - i + 1)^k                         S = G_1 / K^k
    afterwards  A'(i) = (G_i + d) / (K - i + 2)^k  for i < j       S' = (G_1 + d) / (K + 1)^k
                A'(padding) = (d + G_j) / (K - j + 2)^k

The path score S pays for the padding step where d > G_1 ((1 + 1/K)^k - 1): any positive score at k = 0, one above the
rollout's mean credit at k = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pay:
    """own: the padding step's advantage. from_score: the part of it that its score brings, d / (K - j + 2)^k. path:
    what the path score gains by the padding step. break_even: the score above which the path score rises.
    """

    own: float
    from_score: float
    path: float
    break_even: float


def pay(credits: Sequence[float], *, place: int, score: float, k: float) -> Pay:
    """The pay of a padding step of credit ``score`` put before step ``place`` (1-based; K + 1 for the end).

    Raises ValueError where the rollout has no such place or no step.
    """
    steps = len(credits)
    if not 1 <= place <= steps + 1 or not steps:
        raise ValueError(f"a rollout of {steps} steps has places 1 to {steps + 1} for another, not {place}")
    after, total = sum(credits[place - 1 :]), sum(credits)
    share = (steps - place + 2) ** -k
    return Pay(
        own=(score + after) * share,
        from_score=score * share,
        path=(total + score) / (steps + 1) ** k - total / steps**k,
        break_even=total * ((1 + 1 / steps) ** k - 1),
    )
