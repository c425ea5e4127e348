"""What a model folder is: digests of its weights, tokenizer, chat template and vocabulary.

A model folder is a Hugging Face checkpoint: config.json, *.safetensors, tokenizer files; or a LoRA adapter
(`pipelines.models.adapters`), which is its base model with other weights. It is named by its path, by its repository on
the Hugging Face hub or by its URL in a store, and is brought here first (`pipelines.models.source`). Nothing here
imports torch. Digests are of content, so a copied folder has the same ones; keys that only say where, or by which
version, a file was saved are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pass_ops.errors import PassError
from pipelines.models.adapters import read_adapter
from pipelines.models.safetensors import ModelFilesError, safetensors_header
from pipelines.models.source import ModelNotFoundError, local_model, pinned_model
from trainer.digests import file_digest, file_digests, file_identity
from trainer.model_folder import SAVED_BY_KEYS

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip


class VocabularyMismatchError(PassError, ValueError):
    """Two models do not share one vocabulary, so the token ids of one mean nothing to the other."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a tokenizer, added ones included. digest: sha256 of the (id, token) pairs in order of id."""

    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What identifies a model. folder: as it was named, a hub repository with its commit. digest: weights, config and
    generation config.
    """

    folder: str
    digest: str
    tokenizer_digest: str
    chat_template_digest: str
    vocabulary: Vocabulary


def describe_model(folder: str, *, weights: bool = True) -> ModelFacts:
    """Every digest of a model folder; reads the weights once (cached per process until a file changes).

    weights: False reads only the headers of the weight files and leaves `digest` empty, which takes milliseconds.

    Raises ModelNotFoundError, ModelFilesError.
    """
    name, folder = pinned_model(folder), local_model(folder)
    tensor_shapes(folder)  # a file that was cut off is refused before anything is read for long
    return ModelFacts(
        folder=name,
        digest=model_digest(folder) if weights else "",
        tokenizer_digest=tokenizer_digest(folder),
        chat_template_digest=chat_template_digest(folder),
        vocabulary=vocabulary(folder),
    )


def model_digest(folder: str) -> str:
    """sha256 (64 hex digits) over weight files (name, digest) and both configs; of an adapter: over it and its base."""
    path = check_model_folder(folder)
    if (adapter := read_adapter(folder)) is not None:
        weights = file_digest(adapter.weights)
        return _json_digest({"adapter": adapter.config, "weights": weights, "base": model_digest(str(path))})
    digests = {file.name: digest for file, digest in file_digests(weight_files(folder)).items()}
    digests["config.json"] = _json_digest(read_config(folder))
    if (path / "generation_config.json").exists():
        digests["generation_config.json"] = _json_digest(_stable(_read_json(path / "generation_config.json")))
    return _json_digest(digests)


def tokenizer_digest(folder: str) -> str:
    """sha256 over the tokenizer's files; the chat template is not in it."""
    digests = {}
    for name in TOKENIZER_FILES:
        file = check_model_folder(folder) / name
        if not file.exists():
            continue
        if name == "tokenizer_config.json":
            content = {k: v for k, v in _stable(_read_json(file)).items() if k != "chat_template"}
            digests[name] = _json_digest(content)
        else:
            digests[name] = file_digest(file)
    if not digests:
        raise ModelFilesError(
            f"{folder} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there. "
            "Prompts cannot be encoded; copy the tokenizer files of the model it was made from."
        )
    return _json_digest(digests)


def chat_template_digest(folder: str) -> str:
    """sha256 of the chat template (chat_template.jinja, else the key in tokenizer_config.json); of "" where none is.

    Where a folder additional_chat_templates holds further ones, of all of them.
    """
    path = check_model_folder(folder)
    template: Any = ""
    if (path / "chat_template.jinja").exists():
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    elif (path / "tokenizer_config.json").exists():
        template = _read_json(path / "tokenizer_config.json").get("chat_template") or ""
    if more := sorted((path / "additional_chat_templates").glob("*.jinja")):
        return _json_digest([template, {file.name: file.read_text(encoding="utf-8") for file in more}])
    if isinstance(template, str):
        return hashlib.sha256(template.encode()).hexdigest()
    return _json_digest(template)


def vocabulary(folder: str) -> Vocabulary:
    """The tokenizer's vocabulary. Raises ModelFilesError where tokenizer.json is absent or broken."""
    file = check_model_folder(folder) / "tokenizer.json"
    if not file.exists():
        raise ModelFilesError(
            f"{folder} has no tokenizer.json, so its vocabulary cannot be compared or used. Save the tokenizer with "
            "transformers' save_pretrained (fast tokenizer) into that folder."
        )
    return _vocabulary(file_identity(file))


def check_same_vocabulary(*, policy: str, other: str, role: str) -> Vocabulary:
    """The vocabulary both folders share; raises VocabularyMismatchError that names the first token that differs.

    role says in the message what `other` is (teacher, base, reference). The number of rows of the embedding may differ
    (padding); the tokens may not.
    """
    ours, theirs = vocabulary(policy), vocabulary(other)
    if ours == theirs:
        return ours
    tokens_a, tokens_b = _tokens_by_id(policy), _tokens_by_id(other)
    first = min(i for i in tokens_a.keys() | tokens_b.keys() if tokens_a.get(i) != tokens_b.get(i))
    raise VocabularyMismatchError(
        f"The {role} {other} has another vocabulary ({theirs.size} tokens) than the policy {policy} "
        f"({ours.size} tokens): token id {first} is {tokens_b.get(first)!r} there and {tokens_a.get(first)!r} here. "
        f"Its log-probabilities would be those of other tokens; choose a {role} of the policy's own family."
    )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All of a model folder but the values of its weights: equal ones can take over each other's weights in place."""

    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_digest: str
    tensor_shapes: dict[str, tuple[int, ...]]
    adapter_rank: int = 0
    adapter_modules: frozenset[str] = frozenset()

    def difference(self, other: Architecture) -> str | None:
        """The first thing that differs, in words; None where nothing does."""
        for name in ("config", "generation_config"):
            if (key := _first_difference(getattr(self, name), getattr(other, name))) is not None:
                a, b = getattr(self, name).get(key), getattr(other, name).get(key)
                return f"{name}.json differs in {key!r}: {a!r} and {b!r}"
        if self.tokenizer_digest != other.tokenizer_digest:
            return "the tokenizer differs"
        if (key := _first_difference(self.tensor_shapes, other.tensor_shapes)) is not None:
            return f"tensor {key} has shape {self.tensor_shapes.get(key)} and {other.tensor_shapes.get(key)}"
        if other.adapter_rank > self.adapter_rank:
            return f"it is an adapter of rank {other.adapter_rank}, and there is room for rank {self.adapter_rank}"
        if more := other.adapter_modules - self.adapter_modules:
            return f"it adapts {', '.join(sorted(more))}, and there is room for {sorted(self.adapter_modules)}"
        return None


def architecture(folder: str) -> Architecture:
    """Read from configs, tokenizer files and safetensors headers; the weights themselves are not read."""
    file, adapter = check_model_folder(folder) / "generation_config.json", read_adapter(folder)
    return Architecture(
        config=read_config(folder),
        generation_config=_stable(_read_json(file)) if file.exists() else {},
        tokenizer_digest=tokenizer_digest(folder),
        tensor_shapes=tensor_shapes(folder),
        adapter_rank=0 if adapter is None else adapter.rank,
        adapter_modules=frozenset() if adapter is None else adapter.modules,
    )


#: what transformers writes where a tokenizer names no longest text
LONGEST_TEXT = int(1e30)


def load_tokenizer(folder: str) -> Any:
    """The folder's tokenizer.json with its special tokens and chat template (transformers' PreTrainedTokenizerFast).

    The base class on purpose: AutoTokenizer gives the same ids and imports torch first. It knows no longest text: what
    fits is compared with the engine's context, and transformers would warn of errors that nobody makes.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary(folder)  # names what is missing or broken
    return PreTrainedTokenizerFast.from_pretrained(
        str(check_model_folder(folder)), local_files_only=True, model_max_length=LONGEST_TEXT
    )


def weights_identity(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Path, mtime (ns) and size of every weight file: unchanged means the same weights, without reading them."""
    adapter = read_adapter(folder)
    own = () if adapter is None else (adapter.weights, adapter.folder / "adapter_config.json")
    return tuple(file_identity(file) for file in (*weight_files(folder), *own))


def tensor_shapes(folder: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, from the safetensors headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            shapes |= {k: tuple(v["shape"]) for k, v in safetensors_header(file).items() if k != "__metadata__"}
    return shapes


def weight_bytes(folder: str) -> int:
    """Bytes of all tensors in the types that they are stored in, from the safetensors headers alone."""
    headers = [safetensors_header(file) for file in weight_files(folder) if file.suffix == ".safetensors"]
    tensors = [tensor for header in headers for name, tensor in header.items() if name != "__metadata__"]
    return sum(math.prod(tensor["shape"]) * _width(tensor["dtype"]) for tensor in tensors)


def _width(dtype: str) -> int:
    """Bytes of a value of safetensors' type: its name holds the bits ("BF16", "F8_E4M3"), but for BOOL."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


def read_config(folder: str) -> dict[str, Any]:
    """config.json without the keys that only say where or by what it was saved."""
    return _stable(_read_json(check_model_folder(folder) / "config.json"))


def weight_files(folder: str) -> list[Path]:
    """The weight files in order of name; raises ModelFilesError where there are none."""
    path = check_model_folder(folder)
    files = sorted(file for pattern in WEIGHT_PATTERNS for file in path.glob(pattern))
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelFilesError(
            f"{folder} has no *.safetensors file. Save the weights with transformers' save_pretrained into that folder."
        )
    return files


def check_model_folder(folder: str) -> Path:
    """The folder of the whole model: this one, or an adapter's base.

    Raises ModelNotFoundError, AdapterError, or ModelFilesError where it has no config.json.
    """
    path = Path(local_model(folder))
    if (adapter := read_adapter(folder)) is not None:
        return adapter.base
    if not path.is_dir():
        raise ModelNotFoundError(
            f"Model folder {folder} does not exist (looked in {path.absolute()}). Give the path of a Hugging Face "
            "checkpoint on this machine: config.json, *.safetensors, tokenizer.json; or org/name of the hub, or a URL."
        )
    if not (path / "config.json").exists():
        found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise ModelFilesError(f"{folder} has no config.json (it holds {found}); it is no Hugging Face checkpoint.")
    return path


def _first_difference(a: dict[str, Any], b: dict[str, Any]) -> str | None:
    return min((key for key in a.keys() | b.keys() if a.get(key) != b.get(key)), default=None)


def _stable(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in SAVED_BY_KEYS}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ModelFilesError(f"{file} is missing.") from e
    except (ValueError, UnicodeDecodeError) as e:
        raise ModelFilesError(f"{file} is not readable JSON: {e}. Copy or save the model again.") from e
    if not isinstance(content, dict):
        raise ModelFilesError(f"{file} holds a {type(content).__name__} where a JSON object is expected.")
    return content


def _json_digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=16)
def _vocabulary(identity: tuple[str, int, int]) -> Vocabulary:
    tokens = sorted((i, token) for token, i in _read_vocabulary(identity[0]).items())
    return Vocabulary(size=len(tokens), digest=_json_digest(tokens))


def _tokens_by_id(folder: str) -> dict[int, str]:
    return {i: token for token, i in _read_vocabulary(str(check_model_folder(folder) / "tokenizer.json")).items()}


def _read_vocabulary(path: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        return dict(Tokenizer.from_file(path).get_vocab(with_added_tokens=True))
    except Exception as e:  # the Rust side raises bare Exception for every parse error
        raise ModelFilesError(f"{path} is not a readable tokenizer: {e}. Copy or save the tokenizer again.") from e
