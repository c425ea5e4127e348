"""One rank: loads a policy and writes how far its peak of host memory rose. `torchrun host_memory.py FOLDER OUT`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - what importing takes is no part of it

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer import TrainOptions
from trainer.distributed import joined_world
from trainer.policy import load_policy


def peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = sys.argv[1:]
    with joined_world("cpu") as world:
        before = peak()
        policy = load_policy(folder, TrainOptions(device="cpu"), world)
        held = sum(p.to_local().numel() for p in policy.model.parameters())
        Path(out, f"rank-{world.rank}.txt").write_text(f"{peak() - before} {held}")
