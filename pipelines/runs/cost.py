"""What a round will cost, before it runs: tokens, hours, bytes, and a part size to choose.

Speeds are assumptions, printed with the result and settable (`--tokens-per-second`, `--training-tflops`); a first part
of a real run knows better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.models.folder import tensor_shapes, weight_bytes
from pipelines.prompts.part_size import advise_prompts_per_part
from pipelines.prompts.stage import PromptRow
from pipelines.runs.config import RunConfig
from pipelines.runs.evaluate import wanted_evaluation
from trainer import TrainOptions

# Stored bytes a token: ids 1.2, logprobs 3.4, text and mask about 2 for rollouts; the shaped dataset repeats them.
ROLLOUT_BYTES, SHAPED_BYTES = 7.0, 8.0
# Without knowing the policy, a completion is taken to use half of what it may, and a token of text to be 4 characters.
FILL, CHARACTERS = 0.5, 4.0
# Forward and backward pass, FLOPs a token and parameter (Kaplan et al., arXiv 2001.08361); the trainer's MFU is alike.
FLOPS = 6.0
TOKENS_PER_SECOND, TRAINING_TFLOPS = 4000.0, 100.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one round, or of evaluations, which train nothing.

    tokens: sampled ones. hours: engine time of one worker. gigabytes: rollouts and shaped dataset together.
    advised_prompts_per_part and what such a part means: `advise_prompts_per_part`.
    training_tokens: prompts and completions that go through the trainer, epochs counted. training_hours: of one
    device that computes training_tflops. training_gigabytes: kept checkpoints and the exported policy. The last two
    are None where the policy does not exist yet.
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
    training_tokens: int
    training_tflops: float
    training_hours: float | None
    training_gigabytes: float | None

    @property
    def disk_gigabytes(self) -> float:
        """Everything that one round writes."""
        return self.gigabytes + (self.training_gigabytes or 0.0)


def estimate_round(
    config: RunConfig,
    rows: Sequence[PromptRow],
    *,
    policy: str | None = None,
    tokens_per_second: float = TOKENS_PER_SECOND,
    training_tflops: float = TRAINING_TFLOPS,
) -> Estimate:
    """What a round over these prompts (`read_prompts`) costs. Reads the headers of the policy's weights.

    policy: the round's starting policy, where it exists. tokens_per_second: what one worker samples. training_tflops:
    what the trainer's device really computes, TFLOP/s.
    """
    group_size = config.generate.group_size
    sampled = _sampling(
        prompts=len(rows),
        parts=-(-len(rows) // config.prompts.prompts_per_part),
        samples=group_size,
        max_tokens=config.generate.sampling.max_tokens,
        tokens_per_second=tokens_per_second,
        stored_bytes=ROLLOUT_BYTES + SHAPED_BYTES,
    )
    prompt_tokens = sum(_characters(row) for row in rows if isinstance(row, dict)) / CHARACTERS
    trained = config.train.epochs * int(sampled.tokens + group_size * prompt_tokens)
    shapes = None if policy is None else list(tensor_shapes(policy).values())
    return replace(
        sampled,
        training_tokens=trained,
        training_tflops=training_tflops,
        training_hours=None if shapes is None else round(_training_hours(shapes, trained, training_tflops), 6),
        training_gigabytes=None if policy is None else round(_training_gigabytes(policy, config.train), 6),
    )


def estimate_evaluation(
    config: RunConfig,
    benchmarks: Mapping[str, Sequence[PromptRow]],
    *,
    rounds: int | None = None,
    tokens_per_second: float = TOKENS_PER_SECOND,
) -> Estimate:
    """What evaluating on these benchmarks' prompts costs: rollouts and nothing else.

    rounds: None for one policy. Else the starting policy and that of every round, those between the first and the last
    on `eval.between` prompts of each benchmark.

    Raises EvaluationError where there are no benchmarks.
    """
    options = wanted_evaluation(config.eval)
    whole, few = (1, 0) if rounds is None else (2, rounds - 1)
    asked = []  # prompts, and prompts a part
    for name, rows in benchmarks.items():
        size = options.benchmarks[name].prompts().prompts_per_part
        between = len(rows) if options.between is None else min(len(rows), options.between)
        asked += [(len(rows), size)] * whole + [(between, size)] * few
    return _sampling(
        prompts=sum(prompts for prompts, _ in asked),
        parts=sum(-(-prompts // size) for prompts, size in asked),
        samples=options.samples,
        max_tokens=config.eval_sampling.max_tokens,
        tokens_per_second=tokens_per_second,
        stored_bytes=ROLLOUT_BYTES,
    )


def _sampling(
    *, prompts: int, parts: int, samples: int, max_tokens: int, tokens_per_second: float, stored_bytes: float
) -> Estimate:
    """Of so many samples a prompt, which nothing is trained on. stored_bytes: of a sampled token."""
    tokens_per_rollout = max(1.0, FILL * max_tokens)
    tokens = int(prompts * samples * tokens_per_rollout)
    advice = advise_prompts_per_part(
        group_size=samples, tokens_per_rollout=tokens_per_rollout, tokens_per_second=tokens_per_second
    )
    return Estimate(
        prompts=prompts,
        parts=parts,
        rollouts=prompts * samples,
        tokens=tokens,
        tokens_per_second=tokens_per_second,
        hours=round(tokens / tokens_per_second / 3600, 4),
        gigabytes=round(tokens * stored_bytes / 1e9, 6),
        advised_prompts_per_part=advice.prompts_per_part,
        minutes_per_part=advice.minutes,
        megabytes_per_part=advice.megabytes,
        training_tokens=0,
        training_tflops=TRAINING_TFLOPS,
        training_hours=0.0,
        training_gigabytes=0.0,
    )


def training_bytes(shapes: Sequence[tuple[int, ...]], options: TrainOptions, *, stored: int) -> int:
    """Bytes on disk of the kept checkpoints, one more being written, and the exported policy.

    shapes: of the policy's tensors. stored: bytes of them in the policy's folder, which export_dtype "auto" keeps. A
    checkpoint holds float32 weights and AdamW's two moments of what is trained (8-bit: one byte each); with LoRA that
    is rank * (in + out) of every matrix, an upper bound: the head has none. An adapter is float32 under "auto".

    >>> training_bytes([(10, 10)], TrainOptions(keep_checkpoints=1), stored=200)
    2600
    """
    one_more = checkpoint_bytes(shapes, options) // options.keep_checkpoints
    exported = {"float32": 4, "auto": 4}.get(options.export_dtype, 2) * _trained(shapes, options)
    if options.export_dtype == "auto" and not options.lora_rank:
        exported = stored
    return checkpoint_bytes(shapes, options) + one_more + exported


def _training_gigabytes(policy: str, options: TrainOptions) -> float:
    return training_bytes(list(tensor_shapes(policy).values()), options, stored=weight_bytes(policy)) / 1e9


def checkpoint_bytes(shapes: Sequence[tuple[int, ...]], options: TrainOptions) -> int:
    """Bytes on disk of the kept checkpoints of one round."""
    moments = 8 if options.optimizer == "adamw" else 2
    return options.keep_checkpoints * (4 + moments) * _trained(shapes, options)


def _trained(shapes: Sequence[tuple[int, ...]], options: TrainOptions) -> int:
    if options.lora_rank:
        return sum(options.lora_rank * sum(shape) for shape in shapes if len(shape) == 2)
    return _parameters(shapes)


def _training_hours(shapes: Sequence[tuple[int, ...]], tokens: int, tflops: float) -> float:
    return FLOPS * _parameters(shapes) * tokens / (tflops * 1e12) / 3600


def _parameters(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _characters(row: Mapping[str, Any]) -> int:
    return len(row["prompt"] or "") + sum(len(message["content"]) for message in row["messages"] or [])
