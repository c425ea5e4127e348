"""The checks, in the order in which they run: what everything else rests on first, the widest grid last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check: place, the module and function that does it; seconds that it may take on a GPU; packages and GPUs
    without which it is skipped.
    """

    name: str
    place: str
    what: str
    seconds: int
    packages: tuple[str, ...] = ("torch", "transformers")
    gpus: int = 0


ENGINE = ("torch", "transformers", "vllm")

CHECKS = tuple(
    Check(name=name, place=f"pipelines.gpu_check.{place}", what=what, seconds=seconds, packages=packages, gpus=gpus)
    for name, place, seconds, packages, gpus, what in (
        ("driver", "machine:check_driver", 60, ("torch",), 0, "driver, packages, disk, and nobody else on the cards"),
        ("train", "training:check_train", 180, Check.packages, 0,
         "the update of every weight: tokens/s, MFU, and peak memory against what `trainer.gpu_memory` computes"),
        ("engine", "engine:check_engine", 240, ENGINE, 0, "log-probabilities of vLLM against transformers, float32"),
        ("reload", "engine:check_reload", 240, ENGINE, 0, "weights replaced under captured graphs"),
        ("rounds", "memory:check_rounds", 300, ENGINE, 0, "two rounds with a PRM on one device, then `passrl verify`"),
        ("ledger", "memory:check_ledger", 300, ENGINE, 0, "one device, handed from engine to PRM to trainer and back"),
        ("mismatch", "engine:check_mismatch", 300, ENGINE, 0, "sampler against trainer, heads in float32 and bfloat16"),
        ("generate", "sampling:check_generate", 360, ENGINE, 0, "the generate stage against bare LLM.generate"),
        ("kill", "several:check_kill", 180, ENGINE, 0, "SIGKILL in the middle of sampling leaves nothing on the card"),
        ("torchrun", "several:check_torchrun", 180, Check.packages, 2, "the update on two ranks against one"),
        ("two-gpus", "several:check_node", 300, ENGINE, 2, "a round with an engine on each GPU against one engine"),
        ("tensor-parallel", "several:check_tensor_parallel", 240, ENGINE, 2, "one engine over two GPUs against one"),
        ("trl", "training:check_trl", 240, Check.packages, 0, "the update against TRL's GRPO update"),
        ("grid-train", "training:check_grid", 240, Check.packages, 0, "an adapter of the large model, by micro-batch"),
        ("grid-generate", "sampling:check_grid", 240, ENGINE, 0, "the large model's tokens/s by rollouts at a time"),
    )
)  # fmt: skip
