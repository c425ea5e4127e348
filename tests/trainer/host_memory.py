"""One rank: loads a policy and writes how much tensors held at their peak. `torchrun host_memory.py FOLDER OUT`.

What torch's allocator of host memory hands out is counted, to the byte. The process's resident memory would add 50 to
80 MB of imports, malloc's reserves and the machine's load, which differ from run to run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers: weights in this thread, the only one that is profiled

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainer import TrainOptions
from trainer.distributed import joined_world
from trainer.policy import load_policy


def peak(watched: profile, trace: Path) -> int:
    """Bytes."""
    watched.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = sys.argv[1:]
    with joined_world("cpu") as world:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            policy = load_policy(folder, TrainOptions(device="cpu"), world)
        held = sum(p.to_local().numel() for p in policy.model.parameters())
        top = peak(watched, Path(out, f"trace-{world.rank}.json"))
        Path(out, f"rank-{world.rank}.txt").write_text(f"{top} {held}")
