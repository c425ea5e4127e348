"""Stop strings where vLLM underneath would look for them in the prompt.

vLLM's detokenizer begins with the prompt. Where that ends inside a character, it hands the prompt's whole text out as
the completion's first text (vLLM 0.32), so a stop string in the prompt ends the completion at once. For such prompts
the strings are not given to vLLM: the completion is sampled to its end and cut here, which gives the same tokens, since
stop strings do not change what is drawn. Can go once vLLM looks for them in the completion alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engines.base import Sample, SampleRequest
from pipelines.engines.text import Stops, completion_text, ends_inside_character, stops, tokens_to_stop


def sought_underneath(tokenizer: Any, request: SampleRequest) -> Stops:
    """The stops that vLLM is to look for."""
    found = stops(tokenizer, request.sampling.stop, request.sampling.keep_special_tokens)
    return Stops((), found.tokens) if _sought_here(tokenizer, request, found) else found


def read_sample(
    tokenizer: Any,
    request: SampleRequest,
    token_ids: NDArray[np.int32],
    logprobs: NDArray[np.float32],
    *,
    finish_reason: str,
    statistics: NDArray[np.float32] | None = None,
) -> Sample:
    """A sample of what vLLM gave: its text, and cut at the stop strings that vLLM was not given."""
    sampling = request.sampling
    keep = sampling.keep_special_tokens
    found = stops(tokenizer, sampling.stop, keep)
    if _sought_here(tokenizer, request, found):
        least = int(sampling.extra.get("min_tokens", 0))
        end = tokens_to_stop(tokenizer, token_ids.tolist(), found.strings, keep=keep, min_tokens=least)
        if end is not None:
            token_ids, logprobs, finish_reason = token_ids[:end], logprobs[:end], "stop"
            statistics = None if statistics is None else statistics[:, :end]
    text = completion_text(tokenizer, token_ids, keep=keep)
    return Sample(token_ids=token_ids, logprobs=logprobs, finish_reason=finish_reason, text=text, statistics=statistics)


def _sought_here(tokenizer: Any, request: SampleRequest, found: Stops) -> bool:
    return bool(found.strings) and ends_inside_character(tokenizer, request.prompt_token_ids)
