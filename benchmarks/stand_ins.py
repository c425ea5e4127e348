"""Stand-ins for the models and prompt files of a configuration: enough for a dry run, nothing that could be sampled.

A model is its published config.json, the headers of its weight files with every tensor's name and shape and no weights
behind them, and a tokenizer of bytes and one word. All stand-ins share that tokenizer, as the Qwen2.5 models do theirs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.gpu_check.models import SHAPES, SPECIAL
from pipelines.runs.benchmarks import KINDS

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORD = " one"  # one token of four characters, the ratio that `pipelines.runs.cost` assumes
# Characters, assumed: a problem; a question; the ten paragraphs that HotpotQA's distractor setting gives with it.
PROBLEM, QUESTION, PARAGRAPHS, PARAGRAPH = 500, 100, 10, 550


@dataclass(frozen=True, kw_only=True)
class Model:
    """A published model. shape: what differs from its type's default config. reward: a process reward model."""

    shape: Mapping[str, Any]
    type: str = "qwen2"
    context: int = 32_768
    reward: bool = False


_SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
_32B = {
    "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
#: the last part of a model's name -> what it is
MODELS: Mapping[str, Model] = {
    "Qwen2.5-1.5B-Instruct": Model(shape=SHAPES["1.5B"]),
    "Qwen2.5-7B-Instruct": Model(shape=SHAPES["7B"]),
    "Qwen2.5-32B-Instruct": Model(shape=_32B),
    "Qwen2.5-Coder-1.5B-Instruct": Model(shape=SHAPES["1.5B"]),
    "Qwen2.5-Math-1.5B": Model(shape=SHAPES["1.5B"], context=4096),
    "Qwen2.5-Math-7B": Model(shape=SHAPES["7B"], context=4096),
    "Qwen2.5-Math-PRM-7B": Model(shape=SHAPES["7B"], context=4096, reward=True),
    "smollm2-135m-instruct": Model(shape=_SMOLLM2, type="llama", context=8192),
}


def write_stand_ins(config: Mapping[str, Any], folder: Path) -> None:
    """Every model and prompt file that a configuration (a TOML file's tables) names, where it looks beside itself.

    folder: that of the configuration. Raises KeyError for a model that `MODELS` does not have.
    """
    for name in sorted(model_names(config)):
        if not (folder / name).exists():
            _write_model(folder / name, MODELS[Path(name).name])
    for source in (config["prompts"], *config.get("eval", {}).get("benchmarks", {}).values()):
        count = config.get("run", {}).get("prompts_per_round") if source is config["prompts"] else None
        _write_prompts(folder / source["source"], source, count=count or source.get("limit", 16))


def model_names(config: Mapping[str, Any]) -> set[str]:
    """The models that a configuration names."""
    signals = config.get("signals", {}).values()
    return {config["policy"]["model"], *(table["model"] for table in signals if "model" in table)}


def _write_model(folder: Path, model: Model) -> None:
    folder.mkdir(parents=True)
    architecture, config, shapes = _architecture(model)
    written = config | {"architectures": [architecture], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    _tokenizer().save_pretrained(folder)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    header |= {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def _architecture(model: Model) -> tuple[str, dict[str, Any], dict[str, list[int]]]:
    """Class name, config and every stored tensor's shape (a tied head is the embedding); no weights are made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

    more = {"num_labels": 2} if model.reward else {}
    config = AutoConfig.for_model(
        model.type, **model.shape, **more, max_position_embeddings=model.context,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        made = Qwen2ForProcessRewardModel(config) if model.reward else AutoModelForCausalLM.from_config(config)
    tied = set(getattr(made, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    shapes = {name: list(tensor.shape) for name, tensor in made.state_dict().items() if name not in tied}
    return type(made).__name__, config.to_dict(), shapes


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    word = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(WORD)[0][0]
    merges = [(word[:length], word[length]) for length in range(1, len(word))]
    known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[2], clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _write_prompts(file: Path, source: Mapping[str, Any], *, count: int) -> None:
    """`count` rows with the columns that a prompt source asks for, as a JSON list or JSONL, by the file's name."""
    known = KINDS[source["kind"]].columns if "kind" in source else {}
    columns: dict[str, str] = {str(role): name for role, name in (*known.items(), *source.get("columns", {}).items())}
    hops = "paragraphs" in columns or "context" in source.get("extra", ())
    values: dict[str, Any] = {"prompt": _text(QUESTION if hops else PROBLEM), "answer": "1", "aliases": ["one"]}
    values["paragraphs"] = [[f"Title {number}", [_text(PARAGRAPH)]] for number in range(PARAGRAPHS)]
    row = {name: values[role] for role, name in columns.items() if role in values}
    row |= dict.fromkeys(source.get("extra", ()), values["paragraphs"])
    rows = [row | ({columns["prompt_id"]: f"p{i}"} if "prompt_id" in columns else {}) for i in range(count)]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if file.suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows)
    file.write_text(text, encoding="utf-8")


def _text(characters: int) -> str:
    return WORD.strip() + WORD * (characters // len(WORD) - 1)
