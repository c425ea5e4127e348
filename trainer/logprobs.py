"""From token ids to log-probabilities, without a [tokens, vocabulary] tensor of the whole micro-batch.

Dimensions: _B, _S rows and width of a forward pass, _N tokens with a loss, _D hidden size, _V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.attention import VARLEN, bounds
from trainer.fused import fused_logprobs


class TokenLogprobs(nn.Module):
    """Log-probabilities of chosen tokens under a causal language model, all that training needs of it.

    chunk_rows: tokens whose logits are held at a time; where there are more, they are recomputed in the backward pass.
    float32_head: products of the head's compute_dtype weights are summed and kept in float32.
    fused: uses liger-kernel's kernel (`trainer.fused`), which computes no entropy.
    """

    def __init__(
        self,
        model: Any,
        *,
        chunk_rows: int,
        compute_dtype: torch.dtype,
        float32_head: bool = False,
        entropy_gradient: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.chunk_rows = chunk_rows
        self.compute_dtype = compute_dtype
        self.float32_head = float32_head
        self.entropy_gradient = entropy_gradient  # only an entropy bonus needs it, and it costs a [N, V] tensor
        self.fused = fused

    def forward(
        self,
        input_ids_BS: Tensor,
        position_ids_BS: Tensor | None,
        select_N: Tensor,
        targets_N: Tensor,
        temperature: float,
        *,
        prefix_1P: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities at the temperature and at 1, and the entropy at the temperature: float32 [N], natural log.

        logprobs = log softmax(logits / temperature)[target] over the full vocabulary; select_N are positions in
        [B * S]. prefix_1P: tokens in front of every row, computed once.
        """
        lower = self.compute_dtype != torch.float32
        with torch.autocast(input_ids_BS.device.type, self.compute_dtype) if lower else nullcontext():
            hidden = self._hidden(input_ids_BS, position_ids_BS, prefix_1P)
            hidden_ND = hidden.reshape(-1, hidden.shape[-1]).index_select(0, select_N)
            if self.fused and len(targets_N):
                at_one_N = fused_logprobs(self.model, hidden_ND, targets_N, 1.0)
                if temperature == 1.0:
                    return at_one_N, at_one_N, None
                return fused_logprobs(self.model, hidden_ND, targets_N, temperature), at_one_N, None
            parts = list(zip(hidden_ND.split(self.chunk_rows), targets_N.split(self.chunk_rows), strict=True))
            if len(parts) == 1:
                return self._chunk(*parts[0], temperature)
            outputs = [
                checkpoint(self._chunk, h, t, temperature, use_reentrant=False, preserve_rng_state=False)
                for h, t in parts
            ]
        at_temperature_N, at_one_N, entropy_N = (torch.cat(values) for values in zip(*outputs, strict=True))
        return at_temperature_N, at_one_N, entropy_N

    def _hidden(self, input_ids_BS: Tensor, position_ids_BS: Tensor | None, prefix_1P: Tensor | None) -> Tensor:
        """[B, S, D]. Gradients flow from all rows into the prefix's keys and values."""
        body = model_body(self.model)
        _restart_rope(body)
        if prefix_1P is None:
            given: dict[str, Any] = {} if position_ids_BS is None else {"position_ids": position_ids_BS}
            if self.model.config._attn_implementation == VARLEN:
                given |= bounds(input_ids_BS, position_ids_BS)
            plain: Tensor = body(input_ids=input_ids_BS, use_cache=False, **given).last_hidden_state
            return plain
        cache = body(input_ids=prefix_1P, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(input_ids_BS))
        after: Tensor = body(input_ids=input_ids_BS, past_key_values=cache, use_cache=True).last_hidden_state
        return after

    def _chunk(self, hidden_ND: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        unrounded = self.float32_head and self.compute_dtype != torch.float32
        head = {"factors": self.compute_dtype} if unrounded else {}
        logits_NV = head_logits(self.model, hidden_ND, **head).float()
        at_one_N = _gather_logprobs(logits_NV, targets_N)
        scaled_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
        at_temperature_N = at_one_N if temperature == 1.0 else _gather_logprobs(scaled_NV, targets_N)
        with nullcontext() if self.entropy_gradient else torch.no_grad():
            total_N = torch.logsumexp(scaled_NV, dim=-1)
            entropy_N = total_N - (torch.exp(scaled_NV - total_N.unsqueeze(-1)) * scaled_NV).sum(-1)
        return at_temperature_N, at_one_N, entropy_N


def _restart_rope(body: nn.Module) -> None:
    """Puts dynamic rope back to the frequencies of short texts; transformers keeps those of the longest text so far."""
    for module in body.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.inv_freq = module.original_inv_freq.to(module.inv_freq.device)  # type: ignore[union-attr,operator]
            module.max_seq_len_cached = module.original_max_seq_len


def model_body(model: Any) -> Any:
    """The part of a causal language model that gives the last hidden states: all but its head."""
    candidates = (model.base_model, model.get_decoder(), getattr(model, "model", model))
    return next((part for part in candidates if part is not model), model)


def head_logits(model: Any, hidden: Tensor, *, factors: torch.dtype | None = None) -> Tensor:
    """The model's logits from its last hidden state, including what some architectures apply after the head.

    factors: the type of the products' factors, where their sums are to be float32. A head that is no plain linear layer
    computes as it does.
    """
    head = model.get_output_embeddings()
    if factors is not None and type(head) is nn.Linear and head.bias is None:
        logits: Tensor = Float32Head.apply(hidden, head.weight, factors)
    else:
        logits = head(hidden)
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "lm_head_multiplier", None):  # Falcon-H1
        logits = logits * config.lm_head_multiplier
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    if cap:  # Gemma, RecurrentGemma
        logits = torch.tanh(logits / cap) * cap
    return logits


class Float32Head(torch.autograd.Function):
    """hidden [N, D] times weight [V, D] transposed: factors of a lower type, float32 sums, which a linear layer would
    round to that type.

    The backward pass is the linear layer's: its factors, the gradient of the logits among them, are of the lower type.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, factors: torch.dtype) -> Tensor:  # type: ignore[override]
        """float32 [N, V]."""
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        hidden_ND, weight_VD = hidden_ND.to(factors), weight_VD.to(factors)
        ctx.save_for_backward(hidden_ND, weight_VD)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            if hidden_ND.is_cuda:
                return torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32)
            return hidden_ND.float() @ weight_VD.float().t()

    @staticmethod
    def backward(ctx: Any, gradient_NV: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        """Gradients of hidden and weight, each in its type."""
        hidden_ND, weight_VD = ctx.saved_tensors
        lower_NV = gradient_NV.to(hidden_ND.dtype)
        hidden = (lower_NV @ weight_VD).to(ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        weight = (lower_NV.t() @ hidden_ND).to(ctx.dtypes[1]) if ctx.needs_input_grad[1] else None
        return hidden, weight, None


def _gather_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    chosen_N = logits_NV.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
    return chosen_N - torch.logsumexp(logits_NV, dim=-1)
