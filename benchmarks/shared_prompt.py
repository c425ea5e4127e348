"""What computing a group's prompt once would gain: one JSON object for each pair of lengths.

    python benchmarks/shared_prompt.py

A random Llama of the demo's size (0.8M parameters), one group of 8 completions, forward and backward on one thread.
"rows" is what the trainer does, the prompt in front of every completion; "shared" runs the prompt once and lets the
completions read its keys and values through transformers' cache, gradients flowing through it. CPU seconds, the best of
five; differences of log-probabilities (absolute) and of gradients (of the largest).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

GROUP, VOCABULARY = 8, 32
LENGTHS = ((22, 65), (128, 128), (512, 128))  # of prompt and completion; the first are the demo's
Hidden = Callable[[Any, Tensor, Tensor], Tensor]


def make_model() -> Any:
    """A random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def by_rows(model: Any, prompt_1P: Tensor, completions_GT: Tensor) -> Tensor:
    """Hidden states that predict the completions, prompt and completion in each row."""
    ids = torch.cat([prompt_1P.expand(GROUP, -1), completions_GT], 1)
    hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[:, prompt_1P.shape[1] - 1 : -1]


def by_shared_prompt(model: Any, prompt_1P: Tensor, completions_GT: Tensor) -> Tensor:
    """The same, the prompt but for its last token computed once."""
    cache = model.base_model(input_ids=prompt_1P[:, :-1], use_cache=True).past_key_values
    cache.batch_repeat_interleave(GROUP)
    ids = torch.cat([prompt_1P[:, -1:].expand(GROUP, -1), completions_GT[:, :-1]], 1)
    hidden: Tensor = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return hidden


def step(model: Any, hidden_of: Hidden, prompt: Tensor, completions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of the completions and the gradient of their mean."""
    model.zero_grad(set_to_none=True)
    logits = model.lm_head(hidden_of(model, prompt, completions))
    logprobs = torch.log_softmax(logits, -1).gather(-1, completions.unsqueeze(-1)).squeeze(-1)
    logprobs.mean().backward()
    return logprobs.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def seconds(model: Any, hidden_of: Hidden, prompt: Tensor, completions: Tensor) -> float:
    """CPU seconds of a step, the best of five."""
    found = []
    for _ in range(5):
        started = time.process_time()
        step(model, hidden_of, prompt, completions)
        found.append(time.process_time() - started)
    return min(found)


def measure() -> Iterator[dict[str, Any]]:
    """One line a pair of lengths."""
    model = make_model()
    for prompt_tokens, tokens in LENGTHS:
        prompt = torch.randint(1, VOCABULARY, (1, prompt_tokens))
        completions = torch.randint(1, VOCABULARY, (GROUP, tokens))
        (logprobs, gradient), (ours, other) = (
            step(model, hidden_of, prompt, completions) for hidden_of in (by_rows, by_shared_prompt)
        )
        largest = max(float(g.abs().max()) for g in gradient.values())
        rows, shared = (seconds(model, hidden_of, prompt, completions) for hidden_of in (by_rows, by_shared_prompt))
        yield {
            "prompt": prompt_tokens,
            "completion": tokens,
            "tokens_fed": {"rows": GROUP * (prompt_tokens + tokens), "shared": prompt_tokens + GROUP * tokens},
            "cpu_seconds": {"rows": round(rows, 4), "shared": round(shared, 4)},
            "speed_up": round(rows / shared, 2),
            "logprob_difference": float((logprobs - ours).abs().max()),
            "gradient_difference": max(float((gradient[n] - other[n]).abs().max()) for n in gradient) / largest,
        }


def main() -> None:
    """Prints the lines."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for line in measure():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
