"""The policy: a Hugging Face causal language model, loaded, checked and sharded.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.attention import VARLEN, attention_problem, is_flash, register_varlen, varlen_problem
from trainer.batching import MicroBatch
from trainer.defaults import CPU_TOKENS, with_defaults
from trainer.distributed import ALONE, World, shard
from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.fitting import fits, fitting
from trainer.fused import check_fused
from trainer.layers import checkpoint_layers, compile_layers, float32_gradients
from trainer.loading import Layout, context_length, load_model, rope_limit, weights_layout
from trainer.logprobs import TokenLogprobs
from trainer.lora import adapted
from trainer.model_folder import base_folder
from trainer.options import TrainOptions
from trainer.probes import check_backward, check_logprobs, check_sharing

log = logging.getLogger(__name__)


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
    options: TrainOptions  # with what depends on the device
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

    def fitting(self, what: str, *, hint: str = "", rollout_ids: tuple[str, ...] = ()) -> AbstractContextManager[None]:
        """Raises DeviceMemoryError where memory runs out inside (`trainer.fitting`)."""
        return fitting(
            what,
            self.folder,
            self.options,
            device=self.device,
            gpus=self.world.size,
            hint=hint,
            rollout_ids=rollout_ids,
        )

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
    """The model of a Hugging Face folder on the chosen device, in weights_dtype, sharded over the world.

    It stays in eval mode, in which every architecture is a function of its weights and input: no dropout, no skipped
    layers, no noise in routing. Gradients flow as in training mode. Of several ranks only rank 0 reads the weights.

    Raises PolicyNotFoundError, AdapterError, ModelLoadError (`trainer.loading`), PolicyMismatchError (an architecture
    whose log-probabilities the trainer cannot compute, or not in this layout), TrainOptionError (no such device, a
    missing package), DeviceMemoryError.
    """
    base_folder(folder)
    device, options = chosen_device(options.device), device_options(folder, options, world)
    sharded = world.size > 1 or options.cpu_offload
    if world.size > 1 and options.weights_dtype == "bfloat16" and not options.lora_rank:
        raise TrainOptionError(
            f"weights_dtype 'bfloat16' without LoRA trains on one device, and here are {world.size} processes: the "
            "gradients they share would be added up in bfloat16. Set weights_dtype to 'float32'."
        )
    if problem := attention_problem(options.attention, device=device.type):
        raise TrainOptionError(f"{problem}.")
    register_varlen()
    pack = options.layout == "pack" or (options.layout == "auto" and is_flash(options.attention))
    loaded: list[tuple[Any, Any]] = []

    def load() -> tuple[str, Layout]:
        model, adapter, layout = _load_and_check(
            folder, options, device=device, in_host=sharded, pack=pack, processes=world.size
        )
        loaded.append((model, adapter))
        return model.config._attn_implementation if options.attention == "auto" else options.attention, layout

    with fitting(f"while loading {folder}", folder, options, device=device, gpus=world.size):
        attention, layout = world.on_main(load)
        model, adapter = loaded.pop() if loaded else _without_weights(folder, options, attention)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        pack = pack or (options.layout == "auto" and attention == VARLEN)
        if options.compile_layers:
            compile_layers(model, folder)
        if options.gradient_checkpointing:
            checkpoint_layers(model, folder)
        float32_gradients(model)
        scorer = _scorer(model, options)
        if sharded:
            shard(scorer, model, device=device, compute_dtype=scorer.compute_dtype, offload=options.cpu_offload)
    return Policy(
        model=model,
        adapter=adapter,
        scorer=scorer,
        folder=folder,
        layout=layout,
        device=device,
        pack=pack,
        share_prompts=options.share_prompts,
        micro_batch_tokens=options.micro_batch_tokens or CPU_TOKENS,
        options=options,
        world=world,
    )


def _load_and_check(
    folder: str, options: TrainOptions, *, device: torch.device, in_host: bool, pack: bool, processes: int
) -> tuple[Any, Any, Layout]:
    """Model, adapter and layout of the folder, checked on `device`, or in host memory, where sdpa stands in for a flash
    attention.
    """
    from transformers import AutoModelForCausalLM

    base = base_folder(folder)
    attention = options.attention if not in_host or options.attention in ("auto", "eager") else "sdpa"
    model = load_model(AutoModelForCausalLM, base, dtype=getattr(torch, options.weights_dtype), attention=attention)
    layout = weights_layout(model, base)
    adapter = adapted(model, folder, options)
    model.eval()
    if not in_host:
        model.to(device)
    if options.head == "fused":
        check_fused(model, folder, device)
    scorer = _scorer(model, options)
    check_logprobs(scorer, folder, pack=pack)
    if options.share_prompts:
        check_sharing(scorer, folder, pack=pack, options=options, processes=processes)
    if device.type == "cuda" and not in_host:
        _take_varlen(model, scorer, folder, options)
    return model, adapter, layout


def _take_varlen(model: Any, scorer: TokenLogprobs, folder: str, options: TrainOptions) -> None:
    """On a GPU attention "auto" packs by torch's varlen kernels, where they compute the model's function."""
    wanted = options.attention == "auto" and options.layout != "pad" and not options.share_prompts
    if not wanted or options.compute_dtype != "bfloat16" or varlen_problem(model) is not None:
        return
    before = model.config._attn_implementation
    model.set_attn_implementation(VARLEN)
    try:
        check_logprobs(scorer, folder, pack=True)
        check_backward(scorer, folder)
    except PolicyMismatchError as error:
        log.info("attention %r instead of 'varlen': %s", before, error)
        model.set_attn_implementation(before)


def _without_weights(folder: str, options: TrainOptions, attention: str) -> tuple[Any, Any]:
    """Model and adapter as rank 0 has them, on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_folder(folder), local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, options.weights_dtype), attn_implementation=attention
        )
        adapter = adapted(model, folder, options)
    return model.eval(), adapter


def _scorer(model: Any, options: TrainOptions) -> TokenLogprobs:
    return TokenLogprobs(
        model,
        chunk_rows=max(1, options.logits_elements // model.get_input_embeddings().num_embeddings),
        compute_dtype=getattr(torch, options.compute_dtype or "float32"),
        float32_head=options.head_dtype == "float32",
        entropy_gradient=options.entropy_coef > 0,
        fused=options.head == "fused",
    )


def device_options(folder: str, options: TrainOptions, world: World = ALONE) -> TrainOptions:
    """The options with those that depend on the device filled in (`trainer.defaults`)."""
    device = chosen_device(options.device)
    return with_defaults(
        options,
        device=device.type,
        fits=lambda chosen: fits(folder, chosen, device=device, gpus=world.size),
    )


def chosen_device(name: str) -> torch.device:
    """The device of this name. Raises TrainOptionError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainOptionError(f"device {name!r} cannot be used here: {error}. Use 'auto' or 'cpu'.") from error
