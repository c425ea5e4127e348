"""Entropy and sum of squared probabilities of the distributions that tokens were drawn from. Legend: _T tokens.

    entropy = -sum_v p_v ln p_v  (nats)        sum_pi_squared = sum_v p_v^2

Of the k likeliest tokens alone, what is left of the probability, r, counts as one outcome. Both are then lower bounds:

    entropy <= found + r ln(V - k)             sum_pi_squared <= found + r p_k
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def of_likeliest(flat: Any, tokens: int, *, top: int) -> NDArray[np.float32]:
    """Both [2, T] out of vLLM's FlatLogprobs of T positions, from the `top` likeliest tokens of each.

    A position lists the sampled token besides, with its own rank: one that is not among the likeliest does not count,
    and one that is counts once. Raises RuntimeError where a position lists fewer than vLLM was asked for.
    """
    listed = np.subtract(flat.end_indices, flat.start_indices)
    position = np.repeat(np.arange(tokens), listed)
    ranks = np.asarray(flat.ranks, dtype=np.int64)
    kept = np.flatnonzero(ranks <= top)
    _, first = np.unique(np.stack([position[kept], ranks[kept]]), axis=1, return_index=True)
    kept = kept[first]
    if (short := np.flatnonzero(np.bincount(position[kept], minlength=tokens) < top)).size:
        raise RuntimeError(f"vLLM listed fewer than the {top} likeliest tokens at position {short[0]}.")
    logprobs = np.asarray(flat.logprobs, dtype=np.float64)[kept]
    probabilities = np.exp(logprobs)
    terms = np.where(probabilities > 0, -probabilities * np.where(probabilities > 0, logprobs, 0.0), 0.0)
    known_T = np.bincount(position[kept], weights=probabilities, minlength=tokens)
    rest_T = np.clip(1.0 - known_T, 0.0, 1.0)
    entropy_T = np.bincount(position[kept], weights=terms, minlength=tokens)
    entropy_T -= rest_T * np.log(np.where(rest_T > 0, rest_T, 1.0))
    squares_T = np.bincount(position[kept], weights=probabilities**2, minlength=tokens)
    return np.stack([entropy_T, squares_T]).astype(np.float32)
