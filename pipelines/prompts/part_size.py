"""How many prompts one part should hold: the unit of work and of retries."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.prompts.stage import SourceOptionError


@dataclass(frozen=True, kw_only=True)
class PartAdvice:
    """An advised part size, and what one such part then means."""

    prompts_per_part: int
    minutes: float
    megabytes: float


def advise_prompts_per_part(
    *,
    group_size: int,
    tokens_per_rollout: float,
    tokens_per_second: float,
    minutes: float = 5.0,
    megabytes: float = 256.0,
    bytes_per_token: float = 8.0,
) -> PartAdvice:
    """The largest part within both limits: engine time lost when a worker dies, and bytes read and written whole.

    tokens_per_second: what one worker's engine samples. bytes_per_token: stored, all columns (ids 1.2, logprobs 3.4,
    text 2 to 4).

    >>> advise_prompts_per_part(group_size=8, tokens_per_rollout=500, tokens_per_second=4000)
    PartAdvice(prompts_per_part=300, minutes=5.0, megabytes=9.6)
    """
    tokens = group_size * tokens_per_rollout
    if min(tokens, tokens_per_second, minutes, megabytes, bytes_per_token) <= 0:
        raise SourceOptionError("advise_prompts_per_part: every figure must be over 0.")
    prompts = max(1, int(min(60 * minutes * tokens_per_second / tokens, megabytes * 1e6 / (tokens * bytes_per_token))))
    return PartAdvice(
        prompts_per_part=prompts,
        minutes=round(prompts * tokens / tokens_per_second / 60, 2),
        megabytes=round(prompts * tokens * bytes_per_token / 1e6, 2),
    )
