"""The policy: a Hugging Face causal language model in float32, loaded, checked, sharded, and exported.

Dimensions: _N tokens with a loss.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batching import MicroBatch
from trainer.distributed import ALONE, World, shard, whole
from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.fused import check_fused
from trainer.logprobs import TokenLogprobs, head_logits
from trainer.lora import adapted
from trainer.model_folder import base_folder
from trainer.options import TrainOptions

# Files of a policy folder beside weights and config; copied into the export unchanged, so that the next round encodes
# and samples as this one did.
COPIED_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
                   "chat_template*", "generation_config.json")  # fmt: skip
MICRO_BATCH_TOKENS = {"cpu": 2048}  # else 8192
SHARING_TOLERANCE = 0.05  # nats, above bfloat16's rounding and far below what a wrong mask or position causes
HEAD_TOLERANCE = 1e-4  # absolute, on the logits of a probe; far below what an unknown head causes


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
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31 - 1)

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
    """The model of a Hugging Face folder, float32, dropout off, on the chosen device, sharded over the world.

    Raises PolicyNotFoundError, AdapterError, PolicyMismatchError (an architecture whose logits are not those of its
    head, or that cannot be packed), TrainOptionError (no such device, a missing package).
    """
    from transformers import AutoModelForCausalLM

    base = base_folder(folder)
    # With several ranks each loads and checks the model in host memory, where flash attention does not run.
    attention = options.attention if world.size == 1 else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=attention, local_files_only=True
    )
    adapter = adapted(model, folder, options)
    device = _device(options.device)
    if world.size == 1:
        model.to(device)
    model.train()
    _disable_dropout(model)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pack = options.layout == "pack" or (options.layout == "auto" and "flash" in options.attention)
    _probe_head(model, folder)
    if options.head == "fused":
        check_fused(model, folder, device)
    if pack:
        _probe_packing(model, folder, attention)
    scorer = TokenLogprobs(
        model,
        chunk_rows=max(1, options.logits_elements // model.get_input_embeddings().num_embeddings),
        compute_dtype=getattr(torch, options.compute_dtype),
        entropy_gradient=options.entropy_coef > 0,
        fused=options.head == "fused",
    )
    if options.share_prompts:
        _check_sharing(scorer, folder, pack=pack, processes=world.size)
    if world.size > 1:
        model.set_attn_implementation(options.attention)
        shard(scorer, model, device=device, compute_dtype=scorer.compute_dtype)
    return Policy(
        model=model,
        adapter=adapter,
        scorer=scorer,
        folder=folder,
        device=device,
        pack=pack,
        share_prompts=options.share_prompts,
        micro_batch_tokens=options.micro_batch_tokens or MICRO_BATCH_TOKENS.get(device.type, 8192),
        world=world,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainOptionError(f"device {name!r} cannot be used here: {error}. Use 'auto' or 'cpu'.") from error


def _disable_dropout(model: nn.Module) -> None:
    """With dropout the ratio of new to old policy would not be 1 for unchanged weights."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


@torch.no_grad()
def _probe_head(model: Any, folder: str) -> None:
    ids = torch.arange(1, 5, device=model.device).remainder(model.get_input_embeddings().num_embeddings).unsqueeze(0)
    ours = head_logits(model, model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    theirs = model(input_ids=ids, use_cache=False).logits
    if ours.isfinite().all() and theirs.isfinite().all() and (ours - theirs).abs().max() > HEAD_TOLERANCE:
        raise PolicyMismatchError(
            f"{folder} ({type(model).__name__}) changes its logits after the output embedding in a way unknown to the "
            "trainer; log-probabilities would be wrong. Add its transform to trainer.logprobs.head_logits."
        )


@torch.no_grad()
def _probe_packing(model: Any, folder: str, attention: str) -> None:
    """Raises PolicyMismatchError where changing one packed rollout changes another."""
    ids = torch.arange(1, 9, device=model.device).remainder(model.get_input_embeddings().num_embeddings).unsqueeze(0)
    other = ids.clone()
    other[0, :4] = ids[0, :4].flip(0)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=model.device)
    a, b = (
        model.base_model(input_ids=x, position_ids=positions, use_cache=False).last_hidden_state for x in (ids, other)
    )
    if not torch.equal(a[:, 4:], b[:, 4:]) and a.isfinite().all():
        raise PolicyMismatchError(
            f"{folder} ({type(model).__name__}, attention {attention!r}) lets attention cross packed rollouts. "
            "Set layout to 'pad'."
        )


@torch.no_grad()
def _check_sharing(scorer: TokenLogprobs, folder: str, *, pack: bool, processes: int) -> None:
    """Raises PolicyMismatchError unless a prompt computed once gives the same as in front of every row."""
    if pack or processes > 1:
        raise TrainOptionError(
            f"share_prompts needs layout 'pad' and one process; here the layout is {'pack' if pack else 'pad'} and "
            f"there are {processes} processes. Set it to false, or layout to 'pad', and run without torchrun."
        )
    vocabulary, device = scorer.model.get_input_embeddings().num_embeddings, next(scorer.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3], [1, 2, 3, 4, 5, 3, 2, 1]], device=device).remainder(vocabulary)
    targets, after = ids[:, 4:].flatten(), torch.arange(8, device=device)
    apart, _, _ = scorer(ids, None, after + 4 + after // 4 * 4, targets, 1.0)
    once, _, _ = scorer(ids[:, 4:], None, after, targets, 1.0, prefix_1P=ids[:1, :4])
    if apart.isfinite().all() and not (apart - once).abs().max() <= SHARING_TOLERANCE:
        raise PolicyMismatchError(
            f"{folder} ({type(scorer.model).__name__}) computes other log-probabilities after a shared prompt. Set "
            "share_prompts to false."
        )


def export_policy(policy: Policy, folder: Path, *, dtype: str) -> None:
    """Writes a Hugging Face folder that vLLM loads: safetensors, the policy folder's config and tokenizer files.

    Every rank must call it; rank 0 writes. dtype auto: the one in the policy folder's config, float32 where there is
    none. The config is copied rather than generated, so that an engine running the policy can take the new weights
    without a restart. With LoRA the folder is an adapter in peft's format; auto is then float32.
    """
    base = base_folder(policy.folder)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    named = "float32" if policy.adapter else config.get(key) or "float32"
    chosen = named if dtype == "auto" else dtype
    weights = _whole_weights(policy, getattr(torch, chosen))
    if not policy.world.is_main:
        return
    if policy.adapter:
        policy.adapter.save_pretrained(folder, state_dict=weights)
        (folder / "README.md").unlink(missing_ok=True)  # a template
    else:
        policy.model.save_pretrained(folder, state_dict=weights)
        if config.get(key) != chosen and (dtype != "auto" or key in config):
            config[key] = chosen
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "generation_config.json").unlink(missing_ok=True)
    for pattern in COPIED_PATTERNS:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _whole_weights(policy: Policy, dtype: torch.dtype) -> dict[str, Tensor]:
    """The exported tensors, in host memory on rank 0 (empty on other ranks). Tied weights stay one tensor."""
    model = policy.adapter or policy.model
    owners = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    converted: dict[int | str, Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict().items():
        if policy.adapter and name not in trained:
            continue
        owner = owners.get(name, name)
        if owner not in converted:
            gathered = whole(tensor.detach())
            converted[owner] = gathered.to("cpu", dtype) if policy.world.is_main else gathered.new_empty(0)
        weights[name] = converted[owner]
    return weights
