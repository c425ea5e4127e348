"""The same contexts by vLLM and by transformers: the same log-probabilities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pass_ops.shards import PROMPTS, DatasetSpec, signal_schema
from pipelines.engines import release
from pipelines.models.folder import load_tokenizer
from pipelines.signals import build_signal


def test_vllm_and_transformers_agree_after_a_peers_solution(tiny_model: str, make_rollouts) -> None:
    tokenizer = load_tokenizer(tiny_model)
    texts = ("2+2=4.", "2+3=5.", "3+2=5.\n")
    rollouts = make_rollouts(*({"text": text, "ids": tokenizer(text).input_ids} for text in texts))
    asked = [{"prompt_id": "g", "prompt": "2+3=?", "answer": "5", "source": "s"}]
    said = [
        {"rollout_id": f"g/{i}", "status": "ok", "verify_status": verdict}
        for i, verdict in enumerate(("wrong", "ok", "ok"))
    ]
    inputs = {
        "prompts": pa.Table.from_pylist(asked, schema=PROMPTS),
        "right": pa.Table.from_pylist(said, schema=signal_schema("outcome")),
    }
    context = {"template": "{prompt}\nso: {peer}\n", "peer": "right", "outcome": "right"}
    chat = {"chat": True, "system": None, "chat_template_kwargs": {}}
    sampled = DatasetSpec(
        stage="generate", stage_version=1, options=chat, parts=1, carried={"sampling": {"group_size": 3}}
    )
    found = {}
    for kind in ("vllm", "transformers"):
        engine = {"kind": kind, "dtype": "float32"} | ({"kv_cache_gib": 0.25} if kind == "vllm" else {})
        signal = build_signal("logprobs", {"model": tiny_model, "engine": engine, "context": context})
        try:
            table = signal.for_policy(tiny_model, sampled).score(rollouts, inputs)
        finally:
            release()
        assert table["status"].to_pylist() == ["ok"] * 3
        found[kind] = table["logprobs"].to_pylist()
    for ours, theirs in zip(found["vllm"], found["transformers"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
