"""Two engines on half of the cores each against one on all of them: `python benchmarks/bench_node.py`.

Samples the same rollouts of the demo's policy through a node of one child and of two, and prints a JSON line for each:
seconds, tokens a second, and the load of the machine, without which neither means anything.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from pipelines.demo.assets import asset_folder
from pipelines.engines import EngineOptions, SampleRequest, Sampling, start_engine
from pipelines.engines.node import start


def sampled(engine: Any, rollouts: int, max_tokens: int) -> int:
    """Tokens of so many rollouts, sixteen of a prompt."""
    prompts = [engine.tokenizer.encode(f"{10 + i}+{3 * i + 1}=?") for i in range(-(-rollouts // 16))]
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True)
    asked = [SampleRequest(prompt_token_ids=prompts[i // 16], seed=i, sampling=sampling) for i in range(rollouts)]
    return sum(len(future.result().token_ids) for future in [engine.submit(one) for one in asked])


def main() -> None:
    """Measure one child, two, and the engine in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--rollouts", type=int, default=2048)
    parser.add_argument("--max-tokens", type=int, default=48)
    given = parser.parse_args()
    model, options = str(asset_folder("policy")), EngineOptions(kind=given.kind, dtype="float32")
    nodes: dict[str, Any] = {"in this process": None, "one child": ("cpu",), "two children": ("cpu", "cpu")}
    for name, gpus in nodes.items():
        engine = start_engine(model, options) if gpus is None else start(model, options, gpus)
        try:
            sampled(engine, 32, given.max_tokens)  # whatever is made at the first request
            before = time.perf_counter()
            tokens = sampled(engine, given.rollouts, given.max_tokens)
            seconds = time.perf_counter() - before
        finally:
            engine.close()
        line = {"engines": name, "kind": given.kind, "rollouts": given.rollouts, "seconds": round(seconds, 2)}
        print(json.dumps(line | {"tokens_per_second": round(tokens / seconds), "load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    main()
