"""A batch sampler with a key-value cache in plain torch, and log-probabilities of given completions.

Dimensions: _P prompts, _R rollouts (rows of the cache), _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_models.fit import pad_rows
from benchmarks.study.alphabet import EOS, PAD
from benchmarks.study.model import (
    Parameters,
    Shape,
    after_attention,
    logits,
    norm,
    queries_keys_values,
    rotations,
)

#: rollouts sampled at a time: what fits a core's caches
ROWS = 128
#: finished rows are dropped from the cache where they are this share of it
COMPACT = 0.25


@dataclass(frozen=True)
class Completion:
    """Token ids with the end of text where it was written; natural-log probabilities and entropies at temperature 1."""

    ids: tuple[int, ...]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]

    @property
    def truncated(self) -> bool:
        """Whether the cap cut it."""
        return self.ids[-1] != EOS


class _Rows:
    """The state of the rows that are still being written."""

    def __init__(self, p: Parameters, prompts: Sequence[Sequence[int]], *, copies: int, shape: Shape, cap: int) -> None:
        self.p, self.shape = p, shape
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = pad_rows(prompts, PAD)
        width = ids.shape[1]
        cosine, sine = rotations(shape)
        x = functional.embedding(ids, p["model.embed_tokens.weight"])
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for layer in range(shape.layers):
            q, k, v = queries_keys_values(p, layer, x, (cosine[:width], sine[:width]), shape)
            x = after_attention(p, layer, x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
            for kept, found in ((self.keys, k), (self.values, v)):
                kept.append(functional.pad(found.repeat_interleave(copies, dim=0), (0, 0, 0, cap)))
        last = norm(x[torch.arange(len(prompts)), lengths - 1], p["model.norm.weight"])
        self.logits = functional.linear(last, p["lm_head.weight"]).repeat_interleave(copies, dim=0)
        self.positions = lengths.repeat_interleave(copies)  # of the next token
        self.rows = torch.arange(len(prompts) * copies)

    def keep(self, alive: Tensor) -> None:
        """Drops the other rows."""
        for cache in (self.keys, self.values):
            for layer, tensor in enumerate(cache):
                cache[layer] = tensor[alive]
        self.positions, self.rows = self.positions[alive], self.rows[alive]

    def advance(self, tokens: Tensor) -> None:
        """Feeds one token a row and computes the logits of the next."""
        cosine, sine = rotations(self.shape)
        angles = cosine[self.positions][:, None, None], sine[self.positions][:, None, None]
        every = torch.arange(len(tokens))
        width = int(self.positions.max()) + 1
        seen = (torch.arange(width) <= self.positions[:, None])[:, None, None]
        x = functional.embedding(tokens[:, None], self.p["model.embed_tokens.weight"])
        for layer in range(self.shape.layers):
            q, k, v = queries_keys_values(self.p, layer, x, angles, self.shape)
            keys, values = self.keys[layer], self.values[layer]
            keys[every, :, self.positions], values[every, :, self.positions] = k[:, :, 0], v[:, :, 0]
            attended = functional.scaled_dot_product_attention(
                q, keys[:, :, :width], values[:, :, :width], attn_mask=seen
            )
            x = after_attention(self.p, layer, x, attended)
        self.logits = functional.linear(norm(x[:, 0], self.p["model.norm.weight"]), self.p["lm_head.weight"])
        self.positions = self.positions + 1


@torch.inference_mode()
def sample(
    p: Parameters,
    prompts: Sequence[Sequence[int]],
    *,
    copies: int,
    shape: Shape,
    cap: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Completion]:
    """``copies`` completions of each prompt, a prompt's adjacent; at most ``cap`` tokens. Temperature 0 is greedy."""
    found: list[Completion] = []
    at_a_time = max(1, ROWS // copies)
    for start in range(0, len(prompts), at_a_time):
        part = prompts[start : start + at_a_time]
        rows = _Rows(p, part, copies=copies, shape=shape, cap=cap)
        found += _complete(rows, cap=cap, temperature=temperature, generator=generator)
    return found


def _complete(rows: _Rows, *, cap: int, temperature: float, generator: torch.Generator) -> list[Completion]:
    count = len(rows.rows)
    ids = torch.full((count, cap), PAD)
    logprobs, entropies = torch.zeros(count, cap), torch.zeros(count, cap)
    lengths = torch.full((count,), cap)
    done = torch.zeros(count, dtype=torch.bool)
    for at in range(cap):
        all_RV = torch.log_softmax(rows.logits, dim=-1)
        if temperature:
            weights = torch.softmax(rows.logits / temperature, dim=-1)
            chosen = torch.multinomial(weights, 1, generator=generator)
        else:
            chosen = rows.logits.argmax(dim=-1, keepdim=True)
        here = rows.rows
        ids[here, at] = chosen[:, 0]
        logprobs[here, at] = all_RV.gather(1, chosen)[:, 0]
        entropies[here, at] = -(all_RV.exp() * all_RV).sum(dim=-1)
        ended = (chosen[:, 0] == EOS) & ~done[here]
        lengths[here[ended]] = at + 1
        done[here[ended]] = True
        alive = ~done[here]
        if not alive.any() or at + 1 == cap:
            break
        tokens = chosen[:, 0]
        if float(alive.float().mean()) <= 1 - COMPACT:
            rows.keep(alive)
            tokens = tokens[alive]
        rows.advance(tokens)
    return [
        Completion(tuple(row[:n].tolist()), logprob[:n].numpy().copy(), entropy[:n].numpy().copy())
        for row, logprob, entropy, n in zip(ids, logprobs, entropies, lengths.tolist(), strict=True)
    ]


Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Row numbers in batches of similar length."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + 32] for start in range(0, len(order), 32)]


@torch.inference_mode()
def token_logprobs(p: Parameters, pairs: Pairs, shape: Shape) -> list[NDArray[np.float32]]:
    """Natural-log probabilities of each completion's tokens after its prompt, full vocabulary, temperature 1."""
    found: dict[int, NDArray[np.float32]] = {}
    for rows in batches_by_length([len(prompt) + len(completion) for prompt, completion in pairs]):
        ids = pad_rows([[*pairs[row][0], *pairs[row][1]] for row in rows], PAD)
        all_BSV = torch.log_softmax(logits(p, ids[:, :-1], shape), dim=-1)
        chosen = all_BSV.gather(2, ids[:, 1:, None])[..., 0].numpy()
        for line, row in zip(chosen, rows, strict=True):
            prompt, completion = pairs[row]
            found[row] = line[len(prompt) - 1 : len(prompt) + len(completion) - 1].copy()
    return [found[row] for row in range(len(pairs))]
