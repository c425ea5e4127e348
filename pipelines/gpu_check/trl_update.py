"""TRL's GRPO update on stored rollouts: run as a file, in an environment that has TRL; one JSON object out.

    python trl_update.py --model DIR --shaped DIR --order FILE --out DIR --micro N --group N --threads N

The trainer is TRL's own; only its generation is replaced by the stored rollouts: one generation batch a step, padded as
TRL pads (prompts left, completions right, to the longest of the step), per-token advantages, behaviour
log-probabilities as `old_per_token_logps`. Loss "grpo" (mean over a rollout's tokens, then over rollouts), clip 0.2,
beta 0; on a CPU float32 without gradient checkpointing, on a GPU bfloat16 autocast with it. The order file lists the
rollout ids of each step.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def read_rollouts(shaped: Path) -> dict[str, dict[str, Any]]:
    """The rows of every part by rollout id, with one advantage a token."""
    rows = [row for part in sorted(shaped.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    for row in rows:
        lengths = (end - start for start, end in pairwise([0, *row["chunk_ends"]]))
        credits = zip(row["chunk_advantages"], lengths, strict=True)
        row["advantages"] = [advantage for advantage, length in credits for _ in range(length)]
    return {row["rollout_id"]: row for row in rows}


def padded(rows: Sequence[Sequence[float]], *, left: bool = False) -> torch.Tensor:
    """Rows as one tensor, filled up with 0."""
    width = max(map(len, rows))
    return torch.tensor([[0] * (width - len(r)) + r if left else r + [0] * (width - len(r)) for r in map(list, rows)])


class StoredRollouts(GRPOTrainer):
    """GRPOTrainer whose generation batches are stored rollouts."""

    def __init__(self, *, steps: Sequence[Sequence[dict[str, Any]]], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._stored = iter(steps)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:  # noqa: ARG002 - TRL's signature
        rows = next(self._stored)
        return {
            "prompt_ids": padded([r["prompt_token_ids"] for r in rows], left=True),
            "prompt_mask": padded([[1] * len(r["prompt_token_ids"]) for r in rows], left=True),
            "completion_ids": padded([r["token_ids"] for r in rows]),
            "completion_mask": padded([[int(m) for m in r["loss_mask"]] for r in rows]),
            "advantages": padded([r["advantages"] for r in rows]),
            "old_per_token_logps": padded([r["behavior_logprobs"] for r in rows]),
            "num_items_in_batch": torch.tensor(sum(len(r["token_ids"]) for r in rows)),
        }


class Clock(TrainerCallback):
    """Seconds and gradient norm of each step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: list[float] = []
        self.norms: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Starts the step's clock."""
        self._started = self._clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stops it."""
        self.seconds.append(self._clock() - self._started)

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        """Takes the norm TRL logs."""
        if "grad_norm" in logs:
            self.norms.append(float(logs["grad_norm"]))


def main() -> None:
    """Runs the steps and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "shaped", "order", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("micro", "group", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.disable(logging.WARNING)
    rollouts = read_rollouts(given.shaped)
    steps = [[rollouts[i] for i in ids] for ids in json.loads(given.order.read_text())]
    cuda, accumulation = given.device == "cuda", len(steps[0]) // given.micro
    config = GRPOConfig(
        output_dir=str(given.out), per_device_train_batch_size=given.micro, gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation, num_generations=given.group, max_steps=len(steps), learning_rate=1e-6,
        lr_scheduler_type="constant", loss_type="grpo", beta=0.0, epsilon=0.2, temperature=1.0, max_grad_norm=1.0,
        use_cpu=not cuda, bf16=cuda, gradient_checkpointing=cuda, logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32, attn_implementation="sdpa")
    clock = Clock({"wall": time.perf_counter, "cpu": time.process_time}[given.clock])
    trainer = StoredRollouts(
        steps=steps, model=model, args=config, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": ["x"] * len(rollouts)}), callbacks=[clock],
        processing_class=PreTrainedTokenizerFast.from_pretrained(given.model),
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": clock.seconds, "norms": clock.norms, "before_kib": before, "peak_kib": peak}))


if __name__ == "__main__":
    main()
