"""What is left open follows the device; what is named stays."""

from __future__ import annotations

import pytest

from trainer.defaults import with_defaults
from trainer.options import TrainOptions

LEFT_OPEN = ("compute_dtype", "head_dtype", "micro_batch_tokens", "gradient_checkpointing")


def chosen(options: TrainOptions, device: str, *, fits: bool = True) -> tuple:
    made = with_defaults(options, device=device, fits=lambda _: fits)
    return tuple(getattr(made, name) for name in LEFT_OPEN)


def test_a_cpu_computes_as_it_always_did():
    assert chosen(TrainOptions(), "cpu", fits=False) == ("float32", "compute", 2048, False)


@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_computes_in_bfloat16_and_recomputes_layers_only_where_it_must(fits):
    assert chosen(TrainOptions(), "cuda", fits=fits) == ("bfloat16", "float32", 8192, not fits)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_named_stays(device):
    named = TrainOptions(
        compute_dtype="float32", head_dtype="compute", micro_batch_tokens=7, gradient_checkpointing=True
    )
    assert with_defaults(named, device=device, fits=lambda _: False) == named
    once = with_defaults(TrainOptions(), device=device, fits=lambda _: True)
    assert with_defaults(once, device=device, fits=lambda _: False) == once


def test_bfloat16_weights_are_computed_with_in_bfloat16_everywhere():
    assert chosen(TrainOptions(weights_dtype="bfloat16", lora_rank=4), "cpu")[0] == "bfloat16"


def test_shared_prompts_are_never_recomputed():
    assert chosen(TrainOptions(share_prompts=True), "cuda", fits=False)[3] is False


def test_what_is_asked_to_fit_has_every_other_option():
    asked = []
    with_defaults(TrainOptions(), device="cuda", fits=lambda options: asked.append(options) or True)
    assert [(o.compute_dtype, o.micro_batch_tokens, o.gradient_checkpointing) for o in asked] == [
        ("bfloat16", 8192, False)
    ]
