"""Log-probabilities by liger-kernel's fused output head and cross-entropy (Triton, for a GPU).

Dimensions: _N tokens with a loss, _D hidden size, _V vocabulary.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from pass_ops.support.extras import require
from trainer.errors import PolicyMismatchError, TrainOptionError


def check_fused(model: Any, folder: str, device: torch.device) -> None:
    """Raises TrainOptionError without the library or a GPU, PolicyMismatchError for a head the kernel cannot compute.

    Versions before 0.8.2 gave wrong gradients of single tokens' losses; pyproject.toml requires a later one.
    """
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise TrainOptionError("head 'fused' is a kernel for a GPU, but device is cpu; set head to 'chunked'.")
    require("liger_kernel.transformers.functional", "train.head 'fused' (or set 'chunked')")
    head = type(model.get_output_embeddings())
    if head is not nn.Linear or getattr(model.config, "final_logit_softcapping", None):
        raise PolicyMismatchError(
            f"{folder} ({type(model).__name__}) has an output head ({head.__name__}) or a cap on its logits that the "
            "fused kernel cannot compute; set head to 'chunked'."
        )


def fused_logprobs(model: Any, hidden_ND: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
    """Log softmax(logits / temperature) of the targets, float32 [N]; holds the logits of a chunk of tokens at a time.

    The kernel takes no factor on the logits, so temperature and the architecture's own factor are applied to the hidden
    state. N must not be 0.
    """
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    head, config = model.get_output_embeddings(), model.config
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    dtype = hidden_ND.dtype
    factor /= temperature
    scaled_ND = hidden_ND if factor == 1.0 else (hidden_ND.float() * factor).to(dtype)
    bias = None if head.bias is None else (head.bias.float() * factor).to(dtype)
    loss_N: Tensor = liger_fused_linear_cross_entropy(
        scaled_ND, head.weight.to(dtype), targets_N, bias, reduction="none", accum_dtype=torch.float32
    )
    return -loss_N
