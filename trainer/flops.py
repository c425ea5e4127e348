"""Model FLOPs utilization: the FLOPs of a step relative to what the device could compute in that time.

A token costs 6 FLOPs per parameter, forward and backward (Kaplan et al., arXiv 2001.08361). Attention's own products,
recomputation under gradient checkpointing and padding are not counted, so the share is a lower bound.
"""

from __future__ import annotations

from typing import Any

import torch

# Dense bfloat16 peaks from the vendor's data sheets, TFLOP/s, by the first key contained in the device's name.
PEAK_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0,
}  # fmt: skip


def flops_per_token(model: Any) -> float:
    """FLOPs of forward and backward pass; an embedding that is only looked up costs none."""
    parameters = sum(p.numel() for p in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return 6.0 * float(parameters - (0 if head is embedding else embedding.numel()))


def token_share(
    model: Any, device: torch.device, dtype: torch.dtype, peak_tflops: float | None, *, devices: int = 1
) -> float | None:
    """The share of the devices' peak that one token per second uses; None where the peak is unknown."""
    if peak_tflops is None and device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        peak_tflops = next((peak for known, peak in PEAK_TFLOPS.items() if known in name), None)
    return None if peak_tflops is None else flops_per_token(model) / (devices * peak_tflops * 1e12)
