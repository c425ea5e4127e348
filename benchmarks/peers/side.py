"""What others would run on the same rollouts. Works in the environment that `bench.py` makes; imports nothing of ours.

    python side.py pass FOLDER THREADS REPEATS      a padded torch PASS
    python side.py verl FOLDER THREADS REPEATS      verl's GRPO estimator

Reads FOLDER/input.arrow, writes FOLDER/advantages.npy (flat, one value a token) and prints the shortest seconds.
Padding, and taking it off again, are not timed: a trainer has its batch padded already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

K, ETA, EPS = 0.7, 1e-8, 1e-6
GROUP = 16


def standardize(x: torch.Tensor, mask: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Masked group norm over `dims`, ddof 1, 0 where all values are equal."""
    count = mask.sum(dims, keepdim=True)
    mean = (x * mask).sum(dims, keepdim=True) / count.clamp(min=1)
    centered = (x - mean) * mask
    std = (centered.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centered / (std + EPS)


def padded_pass(
    scores: torch.Tensor,
    mask: torch.Tensor,
    step_ends: torch.Tensor | None,
    rewards: dict[str, torch.Tensor],
) -> torch.Tensor:
    """AF, CV, DL over [groups, G, T]; rewards are [groups, G]. step_ends marks the last token of a step (`prm`)."""
    ones = torch.ones_like(rewards["outcome"])
    outcome = standardize(rewards["outcome"], ones, (1,))
    format_ = standardize(rewards["format"], ones, (1,))
    pooled = mask if step_ends is None else mask * step_ends
    s = standardize(scores, pooled, (1, 2))
    fused = torch.where(
        rewards["ok"][..., None] > 0, s + (outcome + format_)[..., None], 3.0 * format_[..., None].expand_as(s)
    )
    if step_ends is None:
        trace = s.mean(1, keepdim=True)
        moved = (trace[..., 1:] - trace[..., :-1]).abs() > ETA
        following = torch.nn.functional.pad(mask[..., 1:], (0, 1))
        ends = mask * torch.where(following > 0, torch.nn.functional.pad(moved, (0, 1)).to(mask.dtype), 1.0)
    else:
        ends = pooled
    to_go = (fused * ends).flip(-1).cumsum(-1).flip(-1)
    remaining = ends.flip(-1).cumsum(-1).flip(-1)
    return to_go / remaining.clamp(min=1).pow(K) * mask


def verl_grpo(rewards: torch.Tensor, mask: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Verl's estimator over [rollouts, T]; the reward lies at the last token."""
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    return compute_grpo_outcome_advantage(rewards, mask, index)[0]


def padded(values: np.ndarray, lengths: np.ndarray, fill: float = 0.0) -> torch.Tensor:
    """[rollouts, T] of flat values."""
    out = np.full((len(lengths), lengths.max()), fill, dtype=np.float32)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values
    return torch.from_numpy(out)


def lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(flat values, lengths)."""
    array = table[name].combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False), np.diff(np.asarray(array.offsets))


def shortest(function: Callable[[], torch.Tensor], repeats: int) -> tuple[float, torch.Tensor]:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        out = function()
        best = min(best, time.perf_counter() - start)
    return best, out


def job(kind: str, table: pa.Table, lengths: np.ndarray) -> Callable[[], torch.Tensor]:
    """The function to be timed, over padded tensors."""
    mask = padded(np.ones(lengths.sum()), lengths)
    outcome = table["outcome_reward"].to_numpy()
    if kind == "verl":
        rewards = torch.zeros_like(mask)
        rewards[torch.arange(len(lengths)), torch.from_numpy(lengths - 1).long()] = torch.from_numpy(outcome.copy())
        index = table["group_id"].to_numpy()
        return lambda: verl_grpo(rewards, mask, index)
    shape = (-1, GROUP, mask.shape[1])
    given = {
        "outcome": torch.from_numpy(outcome.copy()).reshape(-1, GROUP),
        "format": torch.from_numpy(table["format_reward"].to_numpy().copy()).reshape(-1, GROUP),
        "ok": torch.from_numpy(table["format_ok"].to_numpy().astype(np.float32)).reshape(-1, GROUP),
    }
    scores, counts = lists(table, "process_scores")
    step_ends = None
    if "process_ends" in table.column_names:
        ends, _ = lists(table, "process_ends")
        at = np.repeat(np.cumsum(lengths) - lengths, counts) + ends - 1
        flags, spread = np.zeros(lengths.sum(), np.float32), np.zeros(lengths.sum(), np.float32)
        flags[at], spread[at] = 1.0, scores
        scores, step_ends = spread, padded(flags, lengths).reshape(shape)
    tensors = padded(scores, lengths).reshape(shape), mask.reshape(shape)
    return lambda: padded_pass(*tensors, step_ends, given).reshape(len(lengths), -1)


def main() -> None:
    kind, folder, threads, repeats = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    table = pa.ipc.open_file(folder / "input.arrow").read_all()
    _, lengths = lists(table, "loss_mask")
    seconds, out = shortest(job(kind, table, lengths), repeats)
    np.save(folder / "advantages.npy", out.numpy()[np.arange(out.shape[1]) < lengths[:, None]])
    print(seconds)


if __name__ == "__main__":
    main()
