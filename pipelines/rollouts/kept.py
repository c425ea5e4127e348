"""Finished rollouts in a part's journal: sampling with one, a completion as bytes, and the digest of what a part's
rollouts are made from.

    bytes = length of head, head (JSON: finish_reason, text, tokens), token_ids int32, logprobs float32, loss_mask uint8
            and, where there are token statistics, entropy float32, sum_pi_squared float32
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pass_ops.shards import Rejection
from pipelines.engines.base import Sample
from pipelines.parts.journal import Journal, flushed
from pipelines.parts.loop import PartOutput
from pipelines.programs.conversation import Completion
from pipelines.rollouts.encode import PlannedPrompt

_LOG = logging.getLogger(__name__)
_LENGTH = struct.Struct("<I")
_FORMAT = b"completions 1"  # part of the digest: a journal in another format is not read


def completion_bytes(completion: Completion) -> bytes:
    """A completion, bit for bit."""
    sample = completion.sample
    head = json.dumps([sample.finish_reason, sample.text, len(sample.token_ids)]).encode()
    columns = [
        np.ascontiguousarray(sample.token_ids, "<i4").data,
        np.ascontiguousarray(sample.logprobs, "<f4").data,
        np.ascontiguousarray(completion.loss_mask, np.bool_).data,
        *([] if sample.statistics is None else [np.ascontiguousarray(sample.statistics, "<f4").data]),
    ]
    return b"".join([_LENGTH.pack(len(head)), head, *columns])


def read_completion(content: bytes) -> Completion:
    """The completion of `completion_bytes`."""
    (size,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + size
    finish_reason, text, tokens = json.loads(content[_LENGTH.size : start])
    end = start + 9 * tokens
    statistics = np.frombuffer(content, "<f4", 2 * tokens, end).reshape(2, tokens) if len(content) > end else None
    sample = Sample(
        token_ids=np.frombuffer(content, "<i4", tokens, start),
        logprobs=np.frombuffer(content, "<f4", tokens, start + 4 * tokens),
        finish_reason=finish_reason,
        text=text,
        statistics=statistics,
    )
    return Completion(sample=sample, loss_mask=np.frombuffer(content, np.bool_, tokens, start + 8 * tokens))


def with_journal(sample: Callable[..., PartOutput], journal: Journal) -> PartOutput:
    """Sample a part (`sample_part` with all but its `kept` and `keep`), but for what the journal has kept of it."""
    kept = {name: read_completion(content) for name, content in journal.read().items()}
    if kept:
        _LOG.info("%d finished rollouts of an earlier attempt are taken over", len(kept))
    with flushed(journal):
        return sample(
            kept=kept, keep=lambda rollout: journal.add(rollout.place.rollout_id, completion_bytes(rollout.completion))
        )


def planned_digest(planned: Sequence[PlannedPrompt | Rejection], seeds: Mapping[str, Sequence[int]]) -> str:
    """sha256 over the prompts of a part as an engine is given them, and the seeds of their rollouts."""
    digest = hashlib.sha256(_FORMAT)
    for prompt in planned:
        if isinstance(prompt, PlannedPrompt):
            asked = [prompt.prompt_id, list(seeds[prompt.prompt_id]), len(prompt.token_ids)]
            digest.update(json.dumps(asked).encode() + np.asarray(prompt.token_ids, "<i4").tobytes())
    return digest.hexdigest()
