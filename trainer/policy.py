"""The policy: a Hugging Face causal language model in float32, its token log-probabilities, and its export.

Dimensions: _B, _S rows and width of a forward pass, _N tokens with a loss, _D hidden size, _V vocabulary.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.batching import MicroBatch
from trainer.errors import PolicyMismatchError, PolicyNotFoundError, TrainOptionError
from trainer.options import TrainOptions

# What a policy folder holds beside weights and config: copied into the export as it is, so that the next round encodes
# and samples as this one did.
COPIED_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
                   "chat_template*", "generation_config.json")  # fmt: skip
HEAD_TOLERANCE = 1e-4  # absolute, on logits of a probe: another head than ours differs by far more


@dataclass(frozen=True, kw_only=True)
class TokenOutputs:
    """Per token with a loss, float32: log-probabilities at the sampling temperature and at 1; entropy at the former."""

    logprobs_N: Tensor
    logprobs_t1_N: Tensor
    entropy_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A model ready to be trained, and how its log-probabilities are to be computed."""

    model: Any
    folder: str
    device: torch.device
    pack: bool
    compute_dtype: torch.dtype
    logits_elements: int
    entropy_gradient: bool  # only an entropy bonus needs it, and it costs a [N, V] tensor

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding: every token id below it can be fed."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def context(self) -> int:
        """Longest sequence the architecture is made for."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31 - 1)

    def token_outputs(self, batch: MicroBatch, *, temperature: float) -> TokenOutputs:
        """Log-probabilities of the batch's targets, natural log, full vocabulary.

        logprobs = log softmax(logits / temperature)[target], and the same at temperature 1. Logits are formed for
        `logits_elements` entries at a time and formed again in the backward pass, never [B * S, V] at once.
        """
        autocast = self.compute_dtype != torch.float32
        with torch.autocast(self.device.type, self.compute_dtype) if autocast else nullcontext():
            hidden = self.model.base_model(
                input_ids=batch.input_ids_BS, position_ids=batch.position_ids_BS, use_cache=False
            ).last_hidden_state
            hidden_ND = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.select_N)
            rows = max(1, self.logits_elements // self.vocabulary_size)
            parts = list(zip(hidden_ND.split(rows), batch.targets_N.split(rows), strict=True))
            if len(parts) == 1:
                outputs = [self._head_outputs(*parts[0], temperature)]
            else:
                outputs = [
                    checkpoint(self._head_outputs, h, t, temperature, use_reentrant=False, preserve_rng_state=False)
                    for h, t in parts
                ]
        at_temperature, at_one, entropy = (torch.cat(values) for values in zip(*outputs, strict=True))
        return TokenOutputs(logprobs_N=at_temperature, logprobs_t1_N=at_one, entropy_N=entropy)

    def _head_outputs(self, hidden_ND: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        logits_NV = head_logits(self.model, hidden_ND).float()
        at_one_N = _gather_logprobs(logits_NV, targets_N)
        scaled_NV = logits_NV if temperature == 1.0 else logits_NV / temperature
        at_temperature_N = at_one_N if temperature == 1.0 else _gather_logprobs(scaled_NV, targets_N)
        with nullcontext() if self.entropy_gradient else torch.no_grad():
            total_N = torch.logsumexp(scaled_NV, dim=-1)
            entropy_N = total_N - (torch.exp(scaled_NV - total_N.unsqueeze(-1)) * scaled_NV).sum(-1)
        return at_temperature_N, at_one_N, entropy_N


def head_logits(model: Any, hidden: Tensor) -> Tensor:
    """The model's logits from its last hidden state, with the transforms some architectures apply after the head."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    config = model.config
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def _gather_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    chosen_N = logits_NV.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
    return chosen_N - torch.logsumexp(logits_NV, dim=-1)


def load_policy(folder: str, options: TrainOptions) -> Policy:
    """The model of a Hugging Face folder, float32, dropout off, on the chosen device.

    Raises PolicyNotFoundError, PolicyMismatchError (an architecture whose logits are not those of its head, or that
    cannot be packed), TrainOptionError (no such device).
    """
    from transformers import AutoModelForCausalLM

    if not (Path(folder) / "config.json").is_file():
        raise PolicyNotFoundError(
            f"{folder} is no Hugging Face model folder (it has no config.json); give the policy's."
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=options.attention, local_files_only=True
    )
    device = _device(options.device)
    model.to(device)
    model.train()
    _disable_dropout(model)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pack = options.layout == "pack" or (options.layout == "auto" and options.attention.startswith("flash"))
    _probe_head(model, folder)
    if pack:
        _probe_packing(model, folder, options)
    return Policy(
        model=model,
        folder=folder,
        device=device,
        pack=pack,
        compute_dtype=getattr(torch, options.compute_dtype),
        logits_elements=options.logits_elements,
        entropy_gradient=options.entropy_coef > 0,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise TrainOptionError(f"device {name!r} cannot be used here: {error}. Use 'auto' or 'cpu'.") from error


def _disable_dropout(model: nn.Module) -> None:
    """A ratio of two policies that differ by dropout noise would not be 1 for unchanged weights."""
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
            f"{folder} ({type(model).__name__}) changes its logits after the output embedding in a way the trainer "
            "does not know; log-probabilities would be wrong. Add its transform to trainer.policy.head_logits."
        )


@torch.no_grad()
def _probe_packing(model: Any, folder: str, options: TrainOptions) -> None:
    """Changing one packed rollout must not change another."""
    ids = torch.arange(1, 9, device=model.device).remainder(model.get_input_embeddings().num_embeddings).unsqueeze(0)
    other = ids.clone()
    other[0, :4] = ids[0, :4].flip(0)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=model.device)
    a, b = (
        model.base_model(input_ids=x, position_ids=positions, use_cache=False).last_hidden_state for x in (ids, other)
    )
    if not torch.equal(a[:, 4:], b[:, 4:]) and a.isfinite().all():
        raise PolicyMismatchError(
            f"{folder} ({type(model).__name__}, attention {options.attention!r}) lets attention cross packed rollouts. "
            "Set layout to 'pad'."
        )


def export_policy(policy: Policy, folder: Path, *, dtype: str) -> None:
    """Writes a Hugging Face folder that vLLM loads: safetensors, the policy folder's config and tokenizer files.

    dtype auto: the one the policy folder's config names, float32 where it names none. The config is copied rather than
    written anew, so that an engine running the policy can take the new weights without a restart.
    """
    config = json.loads((Path(policy.folder) / "config.json").read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    chosen = (config.get(key) or "float32") if dtype == "auto" else dtype
    converted: dict[int, Tensor] = {}  # by address: tied weights stay one tensor, which is then stored once
    weights = {
        name: converted.setdefault(tensor.data_ptr(), tensor.detach().to("cpu", getattr(torch, chosen)))
        for name, tensor in policy.model.state_dict().items()
    }
    policy.model.save_pretrained(folder, state_dict=weights)
    if config.get(key) != chosen and (dtype != "auto" or key in config):
        config[key] = chosen
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for pattern in COPIED_PATTERNS:
        for file in Path(policy.folder).glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
