"""Architectures of transformers, tiny and random, through the trainer and back: the table of what was found.

    python benchmarks/architectures.py [--vllm] [--only KIND ...]

Every model is built from its config class with all dropout and noise that the class knows set to 0.1 and bfloat16
weights with some float32 buffers as released, then: log-probabilities of the trainer against the plain forward pass
(eager attention, eval mode, float32, one unpadded rollout); two trainings of two steps, bitwise; the export against the
folder it came from; the export loaded by transformers against the trained policy; and by vLLM where it runs here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from pass_ops.errors import PassError
from pipelines.gpu_check.workload import Workload, write_workload
from trainer import TrainOptions, train
from trainer.loading import logits, plain_logits, probe_ids, weight_files
from trainer.policy import Policy, load_policy

VOCABULARY = 64
#: config key -> value, of the keys that a config class has
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64,
    "initializer_range": 0.15, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MLA = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32,
    "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 2,
}  # fmt: skip
#: model_type -> what its config needs beside TINY
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32},
    "vaultgemma": {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 32},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "olmo3": {},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "glm4": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "seed_oss": {},
    "exaone4": {},
    "ernie4_5": {},
    "helium": {},
    "nemotron": {},
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 16},
    "gpt_bigcode": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "codegen": {"num_attention_heads": 4, "rotary_dim": 16},
    "persimmon": {},
    "minimax": {},
    "recurrent_gemma": {"lru_width": 64, "block_types": ["recurrent", "attention"], "attention_window_size": 32},
    "bloom": {},
    "falcon": {},
    "mpt": {},
    "xglm": {"ffn_dim": 96},
    "biogpt": {},
    "mixtral": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 32},
    "qwen3_moe": {},
    "olmoe": {},
    "phimoe": {},
    "granitemoe": {"logits_scaling": 4.0},
    "glm4_moe": {**MLA},
    "dots1": {**MLA},
    "deepseek_v2": {**MLA, "head_dim": 16},
    "deepseek_v3": {**MLA, "head_dim": 16},
    "gpt_oss": {},
    "llama4_text": {"intermediate_size_mlp": 96},
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "rwkv": {"attention_hidden_size": 64},
}  # fmt: skip
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=1, batch_size=2, micro_batch_tokens=128, device="cpu", tensorboard=False, off_policy="accept"
)
WORK = Workload(vocabulary=VOCABULARY, groups=2, group=2, steps=2, longest=16, spread=0.7, prompt=4)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table; `refused` holds the error's first words where the trainer does not take the model."""

    kind: str
    attention: str = "-"
    plain: str = "-"
    twice: str = "-"
    export: str = "-"
    reload: str = "-"
    vllm: str = "-"


def build(kind: str, folder: Path, *, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """Saves a random model of this model_type."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = tiny_config(CONFIG_MAPPING[kind], **{**KINDS.get(kind, {}), **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model = model.to(dtype)
    for name, tensor in model.named_buffers():
        if tensor.is_floating_point():
            tensor.data = buffers[name] + (0.01 * torch.randn_like(buffers[name]) if "correction_bias" in name else 0)
    model.save_pretrained(folder)
    return write_tokenizer(folder)


def tiny_config(config_class: Any, **changes: Any) -> Any:
    """A config of TINY's sizes with every probability of noise at 0.1."""
    default = config_class()
    sizes = {key: value for key, value in TINY.items() if hasattr(default, key) and not _computed(default, key)}
    noise = {
        key: 0.1 for key, value in vars(default).items()
        if ("drop" in key or "jitter" in key) and isinstance(value, float)
    }  # fmt: skip
    return config_class(**{**sizes, **noise, **changes})


def _computed(config: Any, key: str) -> bool:
    return isinstance(getattr(type(config), key, None), property)


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of one word per id."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w3"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w1", eos_token="w2", pad_token="w0", unk_token="w3"
    ).save_pretrained(folder)
    return folder


def off_plain(policy: Policy) -> float:
    """Nats between the trainer's log-probabilities, padded, and the plain forward pass."""
    from trainer.probes import _padded

    rows = [probe_ids(policy.model, length=length, seed=100 + length) for length in (20, 11, 5)]
    with torch.no_grad():
        ours = _padded(policy.scorer, rows)
    plain = []
    for row in rows:
        logprobs_TV = plain_logits(policy.model, row)[:-1].log_softmax(-1)
        plain.append(logprobs_TV.gather(-1, row[0, 1:, None]).squeeze(-1))
    return float((ours - torch.cat(plain)).abs().max())


def export_problem(source: Path, export: Path) -> str | None:
    """What of the source is not in the export, or is there in another form; None where only values changed."""
    tensors = [_tensors(folder) for folder in (source, export)]
    if tensors[0].keys() != tensors[1].keys():
        return f"names: {sorted(tensors[0].keys() ^ tensors[1].keys())[:2]}"
    for name, before in tensors[0].items():
        after = tensors[1][name]
        if before.dtype != after.dtype or before.shape != after.shape:
            return f"{name}: {before.dtype} {after.dtype}"
    missing = {file.name for file in source.iterdir()} - {file.name for file in export.iterdir()}
    if missing:
        return f"files: {sorted(missing)}"
    same = sum(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    return "nothing was trained" if same == len(tensors[0]) else None


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def digest(folder: Path) -> str:
    """Of the weights."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in weight_files(folder))).hexdigest()


def measure(kind: str, folder: Path, data: str, *, with_vllm: bool) -> Line:
    """The line of one architecture."""
    source = build(kind, folder / "source")
    try:
        policy = load_policy(str(source), OPTIONS)
    except PassError as error:
        return Line(kind=kind, attention=f"refused: {str(error).split(': ', 1)[-1][:90]}")
    attention, plain = str(policy.model.config._attn_implementation), off_plain(policy)
    exports = []
    for number in range(2):
        out = folder / f"out{number}"
        exports.append(Path(train([data], policy=str(source), out=str(out), options=OPTIONS).policy_dir))
    problem = export_problem(source, exports[0])
    return Line(
        kind=kind,
        attention=attention,
        plain=f"{plain:.0e}",
        twice="equal" if digest(exports[0]) == digest(exports[1]) else "DIFFER",
        export="complete" if problem is None else problem,
        reload=f"{_off_reload(exports[0]):.0e}",
        vllm=_off_vllm(exports[0]) if with_vllm else "-",
    )


def _off_reload(export: Path) -> float:
    """Nats between transformers' own reading of the export and the trainer's."""
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        export, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, local_files_only=True
    )
    assert not found["missing_keys"], found
    policy = load_policy(str(export), OPTIONS)
    ids = probe_ids(model, length=20)
    difference = logits(model.eval(), ids).log_softmax(-1) - logits(policy.model, ids).log_softmax(-1)
    return float(difference.abs().max())


def _off_vllm(export: Path) -> str:
    """Nats between vLLM's scores of a text and the trainer's; the reason in a word where it does not start here."""
    from pipelines.engines.base import EngineOptions
    from pipelines.engines.vllm import start

    policy = load_policy(str(export), OPTIONS)
    ids = probe_ids(policy.model, length=20)
    ours = logits(policy.model, ids)[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    try:
        engine = start(str(export), EngineOptions(kind="vllm", dtype="float32", kv_cache_gib=0.2, max_num_seqs=8))
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises for what it does not run
        return f"not here ({type(error).__name__})"
    try:
        theirs = torch.from_numpy(engine.score(ids[0].tolist(), start=1).result(timeout=120).copy())
        return f"{float((theirs - ours).abs().max()):.0e}"
    except Exception as error:  # noqa: BLE001 - likewise
        return f"not here ({type(error).__name__})"
    finally:
        engine.close()


def main() -> None:
    """Prints the table of docs/explanation/measured/architectures.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND")
    parser.add_argument("--vllm", action="store_true", help="also score the exports with vLLM (10 s to 40 s each)")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| model_type | attention | train - plain | two trainings | export | reload | vLLM - train |", flush=True)
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        data = str(Path(temporary) / "shaped")
        write_workload(data, WORK)
        for kind in options.only:
            folder = Path(temporary) / kind
            try:
                line = measure(kind, folder, data, with_vllm=options.vllm)
            except Exception as error:  # noqa: BLE001 - a finding, shown in its line
                line = Line(kind=kind, attention=f"ERROR {type(error).__name__}: {str(error)[:150]}")
            print("| " + " | ".join(map(str, astuple(line))).replace("\n", " ") + " |", flush=True)


if __name__ == "__main__":
    main()
