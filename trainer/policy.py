"""The policy: a Hugging Face causal language model in float32, loaded, checked and sharded.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.batching import MicroBatch
from trainer.distributed import ALONE, World, shard
from trainer.errors import TrainOptionError
from trainer.fused import check_fused
from trainer.loading import Layout, context_length, load_model, rope_limit, weights_layout
from trainer.logprobs import TokenLogprobs
from trainer.lora import adapted
from trainer.model_folder import base_folder
from trainer.options import TrainOptions
from trainer.probes import check_logprobs, check_sharing

MICRO_BATCH_TOKENS = {"cpu": 2048}  # else 8192


@dataclass(frozen=True, kw_only=True)
class TokenOutputs:
    """Per token with a loss, float32: log-probabilities at the sampling temperature and at 1; entropy at the former
    (None with head fused).
    """

    logprobs_N: Tensor
    logprobs_t1_N: Tensor
    entropy_N: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A model ready to be trained: `model` is saved and loaded, `scorer` runs it."""

    model: Any
    adapter: Any  # peft's model around `model`; None where every weight is trained
    scorer: TokenLogprobs
    folder: str
    layout: Layout  # of the weights in the folder
    device: torch.device
    pack: bool
    share_prompts: bool
    micro_batch_tokens: int
    world: World = ALONE

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding: the token ids 0 to vocabulary_size - 1 can be fed."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def context(self) -> int:
        """Longest sequence the architecture supports, in tokens."""
        return context_length(self.model.config)

    def budget(self, longest: int) -> int:
        """Tokens of a micro-batch where the longest rollout has so many: 1, each rollout alone, where rope would give
        the others in its forward pass another length than their own.
        """
        limit = rope_limit(self.model.config)
        return self.micro_batch_tokens if limit is None or longest <= limit else 1

    def token_outputs(self, batch: MicroBatch) -> TokenOutputs:
        """Log-probabilities of the batch's targets (`trainer.logprobs`); the batch must be on the policy's device."""
        at_temperature, at_one, entropy = self.scorer(
            batch.input_ids_BS,
            batch.position_ids_BS,
            batch.select_N,
            batch.targets_N,
            batch.temperature,
            prefix_1P=batch.prefix_1P,
        )
        return TokenOutputs(logprobs_N=at_temperature, logprobs_t1_N=at_one, entropy_N=entropy)


def load_policy(folder: str, options: TrainOptions, world: World = ALONE) -> Policy:
    """The model of a Hugging Face folder, float32, on the chosen device, sharded over the world.

    It stays in eval mode, in which every architecture is a function of its weights and input: no dropout, no skipped
    layers, no noise in routing. Gradients flow as in training mode.

    Raises PolicyNotFoundError, AdapterError, ModelLoadError (`trainer.loading`), PolicyMismatchError (an architecture
    whose log-probabilities the trainer cannot compute, or not in this layout), TrainOptionError (no such device, a
    missing package).
    """
    from transformers import AutoModelForCausalLM

    base = base_folder(folder)
    # With several ranks each loads and checks the model in host memory, where flash attention does not run.
    attention = options.attention if world.size == 1 or options.attention in ("auto", "eager") else "sdpa"
    model = load_model(AutoModelForCausalLM, base, dtype=torch.float32, attention=attention)
    layout = weights_layout(model, base)
    adapter = adapted(model, folder, options)
    model.eval()
    device = _device(options.device)
    if world.size == 1:
        model.to(device)
    if options.gradient_checkpointing:
        checkpoint_layers(model, folder)
    if options.head == "fused":
        check_fused(model, folder, device)
    pack = options.layout == "pack" or (options.layout == "auto" and "flash" in options.attention)
    scorer = TokenLogprobs(
        model,
        chunk_rows=max(1, options.logits_elements // model.get_input_embeddings().num_embeddings),
        compute_dtype=getattr(torch, options.compute_dtype),
        entropy_gradient=options.entropy_coef > 0,
        fused=options.head == "fused",
    )
    check_logprobs(scorer, folder, pack=pack)
    if options.share_prompts:
        check_sharing(scorer, folder, pack=pack, options=options, processes=world.size)
    if world.size > 1:
        if options.attention not in ("auto", attention):
            model.set_attn_implementation(options.attention)
        shard(scorer, model, device=device, compute_dtype=scorer.compute_dtype)
    return Policy(
        model=model,
        adapter=adapter,
        scorer=scorer,
        folder=folder,
        layout=layout,
        device=device,
        pack=pack,
        share_prompts=options.share_prompts,
        micro_batch_tokens=options.micro_batch_tokens or MICRO_BATCH_TOKENS.get(device.type, 8192),
        world=world,
    )


def checkpoint_layers(model: Any, folder: str) -> None:
    """Recomputes every layer in the backward pass instead of keeping its activations.

    transformers' own switch works in training mode only. Raises TrainOptionError where the model has no such layers.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainOptionError(
            f"gradient_checkpointing is set, but {folder} ({type(model).__name__}) has no layers that can be "
            "recomputed one by one. Set it to false and lower micro_batch_tokens."
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainOptionError(f"device {name!r} cannot be used here: {error}. Use 'auto' or 'cpu'.") from error
