"""How good a language model of the demo is: pass@1, pass@k, greedy accuracy, length, padding. Plain transformers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from pipelines.demo.arithmetic import MAX_COMPLETION_TOKENS, check_outcome, padding_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Measures:
    """Rates over prompts; ``pass_1_error`` is the standard error of ``pass_1`` over prompts."""

    prompts: int
    samples: int
    pass_1: float
    pass_1_error: float
    pass_all: float
    """share of prompts with a right one among all samples"""
    greedy: float
    tokens: float
    padding_lines: float

    def rounded(self) -> dict[str, float]:
        """The fields, to four digits."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, samples: int, seed: int
) -> Measures:
    """Sample every prompt ``samples`` times at temperature 1 and decode it once greedily."""
    texts = sample(model, tokenizer, [p for p in prompts for _ in range(samples)], temperature=1.0, seed=seed)
    right = torch.tensor(
        [check_outcome(prompt, text) for prompt, text in zip(_repeat(prompts, samples), texts, strict=True)]
    ).view(len(prompts), samples)
    rates = right.double().mean(dim=1)
    greedy = sample(model, tokenizer, prompts, temperature=0.0, seed=seed)
    return Measures(
        prompts=len(prompts),
        samples=samples,
        pass_1=rates.mean().item(),
        pass_1_error=(rates.std() / len(prompts) ** 0.5).item(),
        pass_all=right.any(dim=1).double().mean().item(),
        greedy=sum(map(check_outcome, prompts, greedy)) / len(prompts),
        tokens=sum(len(text) + 1 for text in texts) / len(texts),
        padding_lines=sum(map(padding_lines, texts)) / len(texts),
    )


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    temperature: float,
    seed: int,
    rows: int = 600,
) -> list[str]:
    """One completion a prompt, in order; prompts of one length go together, so that no row needs filling."""
    model.eval()
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for _, same in itertools.groupby(order, key=lambda index: len(prompts[index])):
            indices = list(same)
            for first in range(0, len(indices), rows):
                batch = indices[first : first + rows]
                completions = _generate(model, tokenizer, [prompts[index] for index in batch], temperature)
                for index, text in zip(batch, completions, strict=True):
                    texts[index] = text
    return texts


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], temperature: float
) -> list[str]:
    """Completions of prompts of one length."""
    ids = torch.tensor([tokenizer(prompt).input_ids for prompt in prompts])
    drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_COMPLETION_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(drawing if temperature > 0 else {"do_sample": False}),
    )
    return tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)  # type: ignore[no-any-return]


def _repeat(prompts: Sequence[str], samples: int) -> list[str]:
    return [prompt for prompt in prompts for _ in range(samples)]
