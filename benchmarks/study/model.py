"""The study's transformer in plain torch: Qwen2's arithmetic over a dict of tensors with transformers' names.

`transformers.Qwen2ForCausalLM` has the same names, so that the trainer's policy and the sampler share their tensors.
Dimensions: _B rows, _S positions, _D hidden size, _V vocabulary. float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.study.alphabet import EOS, PAD, VOCABULARY

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; the defaults are the study's, 1.04M parameters, as the demo's teacher has."""

    hidden: int = 160
    inner: int = 320
    layers: int = 4
    heads: int = 5
    positions: int = 384

    @property
    def head(self) -> int:
        """Size of an attention head."""
        return self.hidden // self.heads

    def config(self) -> dict[str, Any]:
        """The same as a `config.json` of transformers."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "use_sliding_window": False,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "torch_dtype": "float32",
        }


def initial_parameters(shape: Shape, *, seed: int) -> dict[str, Tensor]:
    """Normal weights of standard deviation 0.02 (less where a layer adds to the residual stream), norms 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, scale: float = 0.02) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    d, narrow = shape.hidden, 0.02 / math.sqrt(2 * shape.layers)
    found = {"model.embed_tokens.weight": normal(VOCABULARY, d)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        found |= {f"{at}self_attn.{name}_proj.weight": normal(d, d) for name in "qkv"}
        found |= {f"{at}self_attn.{name}_proj.bias": torch.zeros(d) for name in "qkv"}
        found |= {f"{at}mlp.{name}_proj.weight": normal(shape.inner, d) for name in ("gate", "up")}
        found[f"{at}self_attn.o_proj.weight"] = normal(d, d, narrow)
        found[f"{at}mlp.down_proj.weight"] = normal(d, shape.inner, narrow)
        found |= {f"{at}{name}_layernorm.weight": torch.ones(d) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": torch.ones(d), "lm_head.weight": normal(VOCABULARY, d)}


@cache
@torch.inference_mode(mode=False)  # whoever asks first: what is kept serves gradients as well
def rotations(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, [positions, head]."""
    frequency = 10000.0 ** (-torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head)
    angles = torch.arange(shape.positions, dtype=torch.float32)[:, None] * frequency
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of x [..., head]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm over the last dimension."""
    return functional.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def queries_keys_values(
    p: Parameters, layer: int, x: Tensor, angles: tuple[Tensor, Tensor], shape: Shape
) -> tuple[Tensor, ...]:
    """q, k, v [B, heads, S, head] of x [B, S, D], q and k rotated; angles broadcast against them."""
    at = f"model.layers.{layer}."
    y = norm(x, p[f"{at}input_layernorm.weight"])
    rows, width = x.shape[:2]
    q, k, v = (
        functional.linear(y, p[f"{at}self_attn.{name}_proj.weight"], p[f"{at}self_attn.{name}_proj.bias"])
        .view(rows, width, shape.heads, shape.head)
        .transpose(1, 2)
        for name in "qkv"
    )
    return rotate(q, *angles), rotate(k, *angles), v


def after_attention(p: Parameters, layer: int, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a layer; attended [B, heads, S, head]."""
    at = f"model.layers.{layer}."
    x = x + functional.linear(attended.transpose(1, 2).reshape(x.shape), p[f"{at}self_attn.o_proj.weight"])
    y = norm(x, p[f"{at}post_attention_layernorm.weight"])
    gate = functional.silu(functional.linear(y, p[f"{at}mlp.gate_proj.weight"])) * functional.linear(
        y, p[f"{at}mlp.up_proj.weight"]
    )
    return x + functional.linear(gate, p[f"{at}mlp.down_proj.weight"])


def hidden_states(p: Parameters, ids_BS: Tensor, shape: Shape) -> Tensor:
    """[B, S, D] behind the last norm; rows are padded to the right, so padding is never seen."""
    cosine, sine = rotations(shape)
    angles = cosine[: ids_BS.shape[1]], sine[: ids_BS.shape[1]]
    x = functional.embedding(ids_BS, p["model.embed_tokens.weight"])
    for layer in range(shape.layers):
        q, k, v = queries_keys_values(p, layer, x, angles, shape)
        x = after_attention(p, layer, x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    return norm(x, p["model.norm.weight"])


def logits(p: Parameters, ids_BS: Tensor, shape: Shape) -> Tensor:
    """[B, S, V]."""
    return functional.linear(hidden_states(p, ids_BS, shape), p["lm_head.weight"])
