"""What a round will cost, before it runs: tokens, hours, bytes, and a part size to choose.

Speeds are assumptions, printed with the result and settable (`--tokens-per-second`): the engine's own first part
tells better.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.prompts.files import read_source
from pipelines.prompts.stage import advise_prompts_per_part, prompt_rows
from pipelines.runs.config import RunConfig
from pipelines.runs.rounds import round_prompts

# Stored bytes a token: ids 1.2, logprobs 3.4, text and mask about 2 for rollouts; the shaped dataset repeats them.
ROLLOUT_BYTES, SHAPED_BYTES = 7.0, 8.0
# Without knowing the policy, a completion is taken to use half of what it may.
FILL = 0.5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one round. tokens: sampled ones. hours: engine time of one worker. gigabytes: rollouts and shaped together.

    advised_prompts_per_part and what such a part means: `sources.advise_prompts_per_part`.
    """

    prompts: int
    parts: int
    rollouts: int
    tokens: int
    tokens_per_second: float
    hours: float
    gigabytes: float
    advised_prompts_per_part: int
    minutes_per_part: float
    megabytes_per_part: float


def estimate_round(config: RunConfig, *, tokens_per_second: float) -> Estimate:
    """Reads the prompt source (so a bad one is found here), nothing else.

    tokens_per_second: what one worker samples.
    """
    source = round_prompts(config, 0)
    content = read_source(source.source, file_format=source.format, split=source.split)
    prompts = len(prompt_rows(content, source))
    rollouts = prompts * config.generate.group_size
    tokens_per_rollout = max(1.0, FILL * config.generate.sampling.max_tokens)
    tokens = int(rollouts * tokens_per_rollout)
    advice = advise_prompts_per_part(
        group_size=config.generate.group_size,
        tokens_per_rollout=tokens_per_rollout,
        tokens_per_second=tokens_per_second,
    )
    return Estimate(
        prompts=prompts,
        parts=-(-prompts // source.prompts_per_part),
        rollouts=rollouts,
        tokens=tokens,
        tokens_per_second=tokens_per_second,
        hours=round(tokens / tokens_per_second / 3600, 4),
        gigabytes=round(tokens * (ROLLOUT_BYTES + SHAPED_BYTES) / 1e9, 6),
        advised_prompts_per_part=advice.prompts_per_part,
        minutes_per_part=advice.minutes,
        megabytes_per_part=advice.megabytes,
    )
