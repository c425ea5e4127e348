"""Attention by name: what is refused because it is not installed, and `varlen`, torch's own attention over packed rows.

`varlen` is `torch.nn.attention.varlen`: flash attention over rollouts that lie one after the other in one row. It needs
no further package, and runs on a GPU, in bfloat16. On a CPU packed rows are masked by sdpa instead.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VARLEN = "varlen"
# transformers' name -> the packages of which one is needed.
PACKAGES = {
    "flash_attention_2": ("flash_attn",),
    "flash_attention_3": ("flash_attn_3", "flash_attn_interface"),
    "flash_attention_4": ("flash_attn_4", "flash_attn"),
    "kernels-community/": ("kernels",),
}
LARGEST_HEAD = 256  # of flash attention's kernels


def is_flash(name: str) -> bool:
    """Whether this attention packs rows and computes in bfloat16 only."""
    return "flash" in name or name == VARLEN


def attention_problem(name: str, *, device: str) -> str | None:
    """Why this attention is not to be had on a device of this kind, in words; None where it is."""
    if name == VARLEN and device == "cpu":
        return (
            "attention 'varlen' runs on a GPU only, and the device is cpu; set attention to 'auto' (with layout 'pack' "
            "it computes the same)"
        )
    needed = next((packages for prefix, packages in PACKAGES.items() if name.startswith(prefix)), ())
    if not needed or any(find_spec(package) for package in needed):
        return None
    return (
        f"attention {name!r} needs the package {' or '.join(needed)}, which is not installed and is in no extra of "
        "passrl; set attention to 'auto', which packs by torch's own kernels on a GPU, or install it"
    )


def varlen_problem(model: Any) -> str | None:
    """What of the model `varlen` cannot compute, in words; None where nothing is known of."""
    config = model.config.get_text_config(decoder=True)
    if not getattr(model, "_supports_flash_attn", False):
        return f"{type(model).__name__} supports no flash attention"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention logits"
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return f"its heads are {head} wide" if head > LARGEST_HEAD else None


def register_varlen() -> None:
    """Makes `varlen` known to transformers; no mask is made for it, the bounds of the rollouts are passed instead."""
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)


def bounds(ids_BS: Tensor, positions_BS: Tensor | None) -> dict[str, Any]:
    """Where each rollout of a forward pass begins and ends, by the names transformers passes on to attention.

    positions_BS: 0 where a rollout begins; without, each row is one.
    """
    import torch

    rows, width = ids_BS.shape
    if positions_BS is None:
        starts_R = torch.arange(0, rows * width, width, device=ids_BS.device)
    else:
        starts_R = (positions_BS.flatten() == 0).nonzero().flatten()
    ends = torch.cat([starts_R, starts_R.new_tensor([rows * width])]).to(torch.int32)
    longest = int(ends.diff().max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def varlen_attention(  # noqa: PLR0917 - transformers calls it by position
    module: Any,
    query_BHSD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers passes it; there is none
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each rollout, as an `AttentionInterface` of transformers: [B, S, H, D].

    Raises ValueError for what the kernel does not compute: a cap on the logits, sinks, float32.
    """
    import torch
    from torch.nn.attention.varlen import varlen_attn

    unknown = [name for name in ("softcap", "s_aux", "head_mask", "position_bias") if others.get(name) is not None]
    if unknown:
        raise ValueError(f"attention 'varlen' does not compute {', '.join(unknown)} of {type(module).__name__}")
    kind = value_BHSD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value_BHSD.dtype
    if dtype == torch.float32:
        raise ValueError("attention 'varlen' does not compute in float32")
    rows, heads, width, _ = query_BHSD.shape
    if cu_seq_lens_q is None or max_length_q is None:
        cu_seq_lens_q = torch.arange(0, rows * width + 1, width, device=query_BHSD.device, dtype=torch.int32)
        max_length_q = width
    query, key, value = (x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query_BHSD, key_BHSD, value_BHSD))
    out: Tensor = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=heads != key_BHSD.shape[1],
    )
    return out.view(rows, width, heads, -1), None
