"""Short forward passes at load that show whether the trainer computes the model's own function.

The plain pass they are held against: transformers' forward, eager attention, eval mode, one unpadded rollout, float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.loading import TOLERANCE, UNUSABLE, is_low_precision, plain_logits, probe_ids, same
from trainer.logprobs import TokenLogprobs
from trainer.options import TrainOptions

LOW_PRECISION_TOLERANCE = 0.1  # nats: above bfloat16's rounding, far below what a wrong mask or position causes


@torch.no_grad()
def check_logprobs(scorer: TokenLogprobs, folder: str, *, pack: bool) -> None:
    """Raises PolicyMismatchError unless the trainer's log-probabilities are those of the plain forward pass.

    Once of a rollout alone (the head), then of two in one forward pass in the layout (padding, packing), where the
    result must also be the same a second time, and the weights what they were.
    """
    name = f"{folder} ({type(scorer.model).__name__}, attention {scorer.model.config._attn_implementation!r})"
    with _in_float32(scorer) as tolerance, _named(f"{name} cannot be run on text by the trainer"):
        trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
        versions = [parameter._version for parameter in trained]
        rows = [probe_ids(scorer.model, length=length, seed=length) for length in (12, 7)]
        plain = [_plain(scorer, row) for row in rows]
        off_N = (_padded(scorer, rows[:1]) - plain[0]).abs()
        if not same(off_N, scorer.model, tolerance):
            raise PolicyMismatchError(
                f"{name} changes its logits after the output embedding in a way unknown to the trainer, or its "
                f"attention leaves out a part of it: log-probabilities would be wrong by {off_N.max():.2g} nats. Set "
                "attention = 'eager'; if that changes nothing, add its transform to trainer.logprobs.head_logits."
            )
        if [parameter._version for parameter in trained] != versions:
            raise PolicyMismatchError(
                f"{name} changes its own weights in a forward pass, so what is exported would not be what was trained. "
                "Train another architecture."
            )
    layout = _packed if pack else _padded
    problem = f"{name} lets attention cross packed rollouts" if pack else f"{name} computes other values beside padding"
    advice = "Set layout to 'pad'." if pack else "Set layout to 'pack'."
    with _in_float32(scorer) as tolerance, _named(f"{name} cannot be run in this layout", advice):
        together = layout(scorer, rows)
        off_N = (together - torch.cat(plain)).abs()
        if not all(same(part, scorer.model, tolerance) for part in off_N.split([len(p) for p in plain])):
            raise PolicyMismatchError(f"{problem}: off by {off_N.max():.2g} nats. {advice}")
        if together.isfinite().all() and not torch.equal(together, layout(scorer, rows)):
            raise PolicyMismatchError(
                f"{name} gives other log-probabilities to the same rollouts a second time, even in eval mode: it draws "
                "random numbers. Ratios of new to old policy would be noise; train another architecture."
            )


def check_backward(scorer: TokenLogprobs, folder: str) -> None:
    """Raises PolicyMismatchError where two packed rollouts have no finite gradient; leaves no gradient behind."""
    name = f"{folder} ({type(scorer.model).__name__}, attention {scorer.model.config._attn_implementation!r})"
    rows = [probe_ids(scorer.model, length=length, seed=length) for length in (12, 7)]
    with _named(f"{name} has no gradient"):
        try:
            _packed(scorer, rows).sum().backward()
            found = [p.grad for p in scorer.parameters() if p.grad is not None]
            if not found or not all(gradient.isfinite().all() for gradient in found):
                raise PolicyMismatchError(f"{name} has a gradient that is NaN or infinite. Train another architecture.")
        finally:
            scorer.zero_grad(set_to_none=True)


@torch.no_grad()
def check_sharing(scorer: TokenLogprobs, folder: str, *, pack: bool, options: TrainOptions, processes: int) -> None:
    """Raises PolicyMismatchError unless a prompt computed once gives the same as in front of every row."""
    if pack or processes > 1 or options.gradient_checkpointing:
        raise TrainOptionError(
            "share_prompts needs layout 'pad', one process and no gradient_checkpointing; here the layout is "
            f"{'pack' if pack else 'pad'}, there are {processes} processes and gradient_checkpointing is "
            f"{str(options.gradient_checkpointing).lower()}. Set share_prompts to false, or change these."
        )
    prompt_1P, a_1T, b_1T = (probe_ids(scorer.model, length=n, seed=n + s) for n, s in ((5, 0), (3, 0), (3, 1)))
    name = f"{folder} ({type(scorer.model).__name__})"
    advice = "Set share_prompts to false."
    ids = torch.cat([torch.cat([prompt_1P, row], 1) for row in (a_1T, b_1T)])
    targets, after = ids[:, 5:].flatten(), torch.arange(6, device=ids.device)
    with _in_float32(scorer) as tolerance, _named(f"{name} cannot continue from a shared prompt", advice):
        apart, _, _ = scorer(ids, None, after + 4 + after // 3 * 5, targets, 1.0)
        once, _, _ = scorer(ids[:, 4:], None, after + after // 3, targets, 1.0, prefix_1P=prompt_1P[:, :4])
        if not same((once - apart).abs(), scorer.model, tolerance):
            raise PolicyMismatchError(f"{name} computes other log-probabilities after a shared prompt. {advice}")


def _plain(scorer: TokenLogprobs, ids_1T: Tensor) -> Tensor:
    logprobs_TV = plain_logits(scorer.model, ids_1T)[:-1].log_softmax(-1)
    return logprobs_TV.gather(-1, ids_1T[0, 1:, None]).squeeze(-1)


def _padded(scorer: TokenLogprobs, rows: list[Tensor]) -> Tensor:
    width = max(row.shape[1] for row in rows)
    ids_BS = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows])
    return _score(scorer, ids_BS, None, rows, starts=[i * width for i in range(len(rows))])


def _packed(scorer: TokenLogprobs, rows: list[Tensor]) -> Tensor:
    positions = torch.cat([torch.arange(row.shape[1], device=row.device) for row in rows]).unsqueeze(0)
    starts = [sum(row.shape[1] for row in rows[:i]) for i in range(len(rows))]
    return _score(scorer, torch.cat(rows, 1), positions, rows, starts=starts)


def _score(
    scorer: TokenLogprobs, ids_BS: Tensor, positions_BS: Tensor | None, rows: list[Tensor], *, starts: list[int]
) -> Tensor:
    places = [start + torch.arange(row.shape[1] - 1) for start, row in zip(starts, rows, strict=True)]
    targets_N = torch.cat([row[0, 1:] for row in rows])
    logprobs_N: Tensor = scorer(ids_BS, positions_BS, torch.cat(places).to(ids_BS.device), targets_N, 1.0)[0]
    return logprobs_N


@contextmanager
def _in_float32(scorer: TokenLogprobs) -> Iterator[float]:
    """The tolerance of a comparison in float32. What cannot compute in it (flash attention, bfloat16 weights) is held
    to a wider one.
    """
    lower, dtype = is_low_precision(scorer.model), scorer.compute_dtype
    scorer.compute_dtype = dtype if lower else torch.float32
    try:
        yield LOW_PRECISION_TOLERANCE if lower else TOLERANCE
    finally:
        scorer.compute_dtype = dtype


@contextmanager
def _named(problem: str, advice: str = "Train another architecture, or another layout.") -> Iterator[None]:
    try:
        yield
    except PolicyMismatchError:
        raise
    except torch.OutOfMemoryError:
        raise
    except UNUSABLE as error:
        raise PolicyMismatchError(f"{problem}: {type(error).__name__}: {error}. {advice}") from error
