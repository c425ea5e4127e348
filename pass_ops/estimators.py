"""Which operations form the advantages, in which order (paper Alg. 4, Tables 2 and 3, and what PASS is compared with).

An estimator is a function from rollouts (whole groups) to chunks. It works through them in blocks of groups, small
enough to stay in the processor's cache from one operation to the next.

Legend of dimensions: see `pass_ops.reading.ragged`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pass_ops import blocks, chunking, divide_length
from pass_ops.blocks import Block, Chunks, Output, Statistics
from pass_ops.fusion import Fusion, fuse, shape_rewards
from pass_ops.methods.by_group import by_group
from pass_ops.options.config import ShapingConfig, load_estimator
from pass_ops.options.methods import METHODS
from pass_ops.options.published import PUBLISHED
from pass_ops.reading.ragged import offsets
from pass_ops.reading.rollouts import Rollouts
from pass_ops.support.importing import load_object


def pass_(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
    """PASS: Advantage Fusion, Chunk-by-Value, Divide-Length."""
    operators = config.standardizers
    fusion = fuse(
        config.weights,
        outcome_R=blocks.standardized(rollouts, rollouts.outcome_R, operators.outcome, config),
        format_R=blocks.standardized(rollouts, rollouts.format_R, operators.format, config),
        passed_R=rollouts.passed_R,
    )
    return _fuse_chunk_divide(rollouts, config, fusion)


def reward_shaping(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
    """Raw streams summed, then one standardization, then CV and DL (paper Table 3)."""
    fusion = shape_rewards(config.weights, outcome_R=rollouts.outcome_R, format_R=rollouts.format_R)
    return _fuse_chunk_divide(rollouts, config, fusion)


def grpo_process(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
    """Eq. 1-3: all streams in one pool; an advantage is the sum of what lies at or after the token."""
    weights = config.weights
    tail = [
        (weight, x_R)
        for weight, x_R in ((weights.outcome, rollouts.outcome_R), (weights.format, rollouts.format_R))
        if weight != 0.0
    ]
    tail_weights = np.array([weight for weight, _ in tail], dtype=np.float64)
    tail_R = np.array([x_R for _, x_R in tail], dtype=np.float64).reshape(len(tail), len(rollouts))
    per_token = rollouts.ends is None
    output = Output(rollouts, chunks=blocks.most_chunks(rollouts, per_token=per_token), per_token=per_token)
    statistics = Statistics.empty(rollouts)
    working = np.empty(rollouts.longest)
    for block in blocks.split(output):
        blocks.pool(
            config, block, output, statistics,
            operator=config.standardizers.process, pooled=weights.process != 0.0, joined_R=tail_R,
        )  # fmt: skip
        if per_token:
            _chunk_tokens(block, output)
        divide_length.return_to_go(
            block.first_G, block.last_G, rollouts.starts_G1, output.trainable_R, weights.process, tail_weights, tail_R,
            *statistics, output.starts_R1, working, output.scores_K, output.ends_K, output.credits_K,
            output.advantages_K,
        )  # fmt: skip
        blocks.check_output(block, output)
    return output.chunks()


def grpo_outcome(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
    """GRPO(ORM): the standardized sum of outcome and format on every token.

    With `mean_only` it is Dr. GRPO (arXiv 2503.20783), with `leave_one_out` RLOO (arXiv 2402.14740).
    """
    weights = config.weights
    x_R = weights.outcome * rollouts.outcome_R + weights.format * rollouts.format_R
    return _one_chunk(rollouts, blocks.standardized(rollouts, x_R, config.standardizers.outcome, config))


def gdpo(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
    """GDPO (arXiv 2601.05242): outcome and format standardized separately, their weighted sum on every token."""
    weights, operators = config.weights, config.standardizers
    outcome_R = blocks.standardized(rollouts, rollouts.outcome_R, operators.outcome, config)
    format_R = blocks.standardized(rollouts, rollouts.format_R, operators.format, config)
    return _one_chunk(rollouts, weights.outcome * outcome_R + weights.format * format_R)


def estimator_of(config: ShapingConfig) -> Callable[[Rollouts, ShapingConfig], Chunks]:
    """The function that `config.estimator` names."""
    if ":" in config.estimator:
        return by_group(load_estimator(config.estimator))
    if config.estimator in PUBLISHED:
        published = load_object(str(PUBLISHED[config.estimator].function))
        return by_group(published, **(config.method_options or {}))
    method = METHODS[config.estimator]
    function: Callable[..., Any] = load_object(method.function)
    return by_group(function) if method.by_group else function


def _one_chunk(rollouts: Rollouts, advantage_R: np.ndarray) -> Chunks:
    """One chunk a rollout, with this advantage."""
    output = Output(rollouts, chunks=0, per_token=False)
    blocks.read_masks(output, 0, len(rollouts))  # which rows are trainable
    lengths_R = rollouts.mask.lengths_R
    some_R = lengths_R > 0
    with np.errstate(over="ignore"):  # refused in the next line
        advantages_R = np.where(output.trainable_R, advantage_R, 0.0).astype(np.float32)
    if not np.isfinite(advantages_R).all():
        blocks.raise_too_large(rollouts, int(np.argmax(~np.isfinite(advantages_R))))
    return Chunks(
        starts_R1=offsets(some_R),
        ends_K=lengths_R[some_R].astype(np.int32),
        credits_K=advantages_R[some_R],
        advantages_K=advantages_R[some_R],
        path_R=output.path_R,
        trainable_R=output.trainable_R,
    )


def _fuse_chunk_divide(rollouts: Rollouts, config: ShapingConfig, fusion: Fusion) -> Chunks:
    """Standardize the pools of `fusion`, cut by CV, credit by the fused advantage, divide by DL."""
    operator = config.standardizers.process
    per_token = rollouts.ends is None or not config.chunk
    output = Output(
        rollouts,
        chunks=blocks.most_chunks(rollouts, per_token=per_token),
        per_token=per_token,
        given=config.chunk and rollouts.every_step_is_live,
    )
    statistics = Statistics.empty(rollouts)
    by_trace = config.chunk and rollouts.ends is None
    # The trace is that of PASS, over the process signal alone, also where the pool is another one.
    apart = METHODS[config.estimator].pools == "each"
    trace = statistics if apart or not by_trace else Statistics.empty(rollouts)
    powers = divide_length.inverse_powers(config.k, longest=rollouts.longest)
    working = np.empty(rollouts.longest)
    for block in blocks.split(output):
        blocks.pool(config, block, output, statistics, operator=operator, weight=fusion.weight, add_R=fusion.add_R)
        if trace is not statistics:
            blocks.pool(config, block, output, trace, operator=operator)
        if by_trace:
            _chunk_trace(config, block, output, trace)
        elif per_token:
            _chunk_tokens(block, output)
        divide_length.divide_length(
            block.first_G, block.last_G, rollouts.starts_G1, output.trainable_R, fusion, *statistics, powers,
            output.starts_R1, working, output.scores_K, output.credits_K, output.advantages_K, output.path_R,
        )  # fmt: skip
        blocks.check_output(block, output)
    return output.chunks()


def _chunk_tokens(block: Block, output: Output) -> None:
    process, ends = output.rollouts.process, output.rollouts.ends
    assert process is not None
    chunking.chunk_by_token(
        block.first_R, block.last_R, output.trainable_R, block.elements.tokens, process.values, process.starts_R1,
        *((ends.values, ends.starts_R1) if ends else blocks.NO_ENDS),
        output.ends_K, output.advantages_K, output.starts_R1,
    )  # fmt: skip


def _chunk_trace(config: ShapingConfig, block: Block, output: Output, trace: Statistics) -> None:
    rollouts = output.rollouts
    trace_T, cuts_T = np.empty(rollouts.longest), np.empty(rollouts.longest, dtype=np.int32)
    chunking.chunk_by_trace(
        block.first_G, block.last_G, rollouts.starts_G1, rollouts.used_R, block.elements, *trace, config.eta,
        trace_T, cuts_T, output.ends_K, output.advantages_K, output.starts_R1,
    )  # fmt: skip
