"""No logprob that would poison a training leaves an engine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.engines.base import RequestRejected
from pipelines.engines.driver import Answer


def finite_or_rejected(answer: Answer, logprobs: NDArray[np.float32], *, allow_zero_probability: bool) -> Answer:
    """The answer, or its rejection: a sampled token has a finite logprob; a scored one may have -inf, never NaN."""
    wrong = ~np.isfinite(logprobs)
    if allow_zero_probability:
        wrong &= ~np.isneginf(logprobs)
    if not wrong.any():
        return answer
    position = int(np.flatnonzero(wrong)[0])
    value = logprobs[position].item()
    fact = "NaN" if math.isnan(value) else str(value)
    return RequestRejected("non_finite_logprob", f"{fact} at token {position} of {len(logprobs)}")
