"""How fast training steps are, against a bare forward and backward pass on the same tokens: one JSON object a line.

    python benchmarks/bench_train.py [--prompts 64] [--group 8] [--updates 8] [--repeats 3] [--threads N]

The model is a random Llama of the demo's size (128 wide, 4 layers, 0.8M parameters), the data are random rollouts of
about 65 tokens after prompts of 22. Bare: the same padded micro-batches through the whole model, log-softmax of every
position, backward, fused AdamW; no loss, no mask, no metrics, no reading. Both take turns; the shortest repeat counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize, shaped_schema
from trainer import TrainOptions, train
from trainer.batching import plan_micro_batches
from trainer.metrics import read_metrics

VOCABULARY = 32
PROMPT = 22
STEPS = 9  # chunks of a rollout


def make_model(folder: Path) -> str:
    """A random Llama in a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def make_data(url: str, *, prompts: int, group: int) -> np.ndarray:
    """A shaped dataset of random rollouts in four parts; returns their completion lengths."""
    rng = np.random.default_rng(0)
    rows = prompts * group
    lengths = np.clip(rng.normal(65, 12, rows), STEPS + 1, 136).astype(int)
    ends = [[*(np.sort(rng.choice(n - 1, STEPS, replace=False)) + 1).tolist(), int(n)] for n in lengths]
    groups = np.repeat(np.arange(prompts), group)
    columns = {
        "group_id": [f"g{g:05d}" for g in groups],
        "sample_index": np.tile(np.arange(group), prompts),
        "rollout_id": [f"g{g:05d}/{i % group}" for i, g in enumerate(groups)],
        "prompt_token_ids": [rng.integers(1, VOCABULARY, PROMPT).tolist() for _ in range(rows)],
        "token_ids": [rng.integers(1, VOCABULARY, n).tolist() for n in lengths],
        "text": [""] * rows,
        "behavior_logprobs": [rng.normal(-3.4, 0.1, n).tolist() for n in lengths],
        "loss_mask": [[True] * n for n in lengths],
        "finish_reason": ["stop"] * rows,
        "seed": [0] * rows,
        "answer": [None] * rows,
        "chunk_ends": ends,
        "chunk_credits": [rng.normal(0, 1, len(e)).tolist() for e in ends],
        "chunk_advantages": [rng.normal(0, 1, len(e)).tolist() for e in ends],
        "path_score": [0.0] * rows,
        "trainable": [True] * rows,
        "policy_digest": [""] * rows,
        "round": [0] * rows,
    }
    schema = shaped_schema({})
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    sampling = {"temperature": 1.0, "logprobs_mode": "raw_logprobs"}
    spec = DatasetSpec(stage="shape", stage_version=1, options={}, parts=4, carried={"sampling": sampling})
    dataset = create_dataset(url, spec)
    bounds = [prompts * i // 4 * group for i in range(5)]
    for part in range(4):
        commit_part(dataset, part, table.slice(bounds[part], bounds[part + 1] - bounds[part]))
    finalize(dataset)
    return lengths


def bare_seconds(model: torch.nn.Module, lengths: np.ndarray, *, updates: int, budget: int) -> float:
    """Seconds for as many steps over the same tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    order = np.random.default_rng(0).permutation(len(lengths))
    started = time.perf_counter()
    for rows in np.array_split(order, updates):
        whole = lengths[rows] + PROMPT
        for chosen in plan_micro_batches(whole, budget=budget, pack=False):
            ids = torch.randint(1, VOCABULARY, (len(chosen), int(whole[chosen].max())))
            logits = model(input_ids=ids, use_cache=False).logits
            torch.log_softmax(logits, -1).gather(-1, ids.unsqueeze(-1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def measure(*, prompts: int, group: int, updates: int, repeats: int) -> Iterator[dict]:
    """The lines of the benchmark."""
    from transformers import AutoModelForCausalLM

    options = TrainOptions(updates=updates, device="cpu", tensorboard=False)
    ours, bare, waits = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        policy = make_model(root / "policy")
        lengths = make_data(str(root / "shaped"), prompts=prompts, group=group)
        model = AutoModelForCausalLM.from_pretrained(policy).train()
        for repeat in range(repeats):
            train([str(root / "shaped")], policy=policy, out=str(root / f"run-{repeat}"), options=options)
            lines = read_metrics(root / f"run-{repeat}")
            ours.append(sum(line["seconds"] for line in lines))
            waits.append(sum(line["data_wait"] for line in lines) / ours[-1])
            bare.append(bare_seconds(model, lengths, updates=updates, budget=options.micro_batch_tokens))
    tokens = int(lengths.sum()) + PROMPT * len(lengths)
    sizes = {"rollouts": len(lengths), "tokens": tokens, "updates": updates, "threads": torch.get_num_threads()}
    yield {
        "metric": "train_tokens_per_second", "value": round(tokens / min(ours)), "unit": "tokens/s",
        "against": "bare forward and backward", "ratio": round(min(bare) / min(ours), 3), **sizes,
    }  # fmt: skip
    yield {
        "metric": "train_data_wait", "value": round(min(waits), 5), "unit": "share of step time",
        "against": "goal 0.01", "ratio": round(min(waits) / 0.01, 3), **sizes,
    }  # fmt: skip


def main() -> None:
    """Reads the sizes and prints the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 64), ("group", 8), ("updates", 8), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    arguments = vars(parser.parse_args())
    if threads := arguments.pop("threads"):
        torch.set_num_threads(threads)
    for line in measure(**arguments):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
