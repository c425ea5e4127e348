"""What a model folder is: a whole Hugging Face checkpoint, or a LoRA adapter in peft's format on top of one.

An adapter folder has adapter_config.json and adapter_model.safetensors; `base_model_name_or_path` in the former names
the base model's folder, absolute or relative to the adapter's. A config.json beside them (many published adapters carry
their base's) changes nothing. A folder that holds both an adapter and a whole model's weights is refused: libraries
disagree on which of the two it means. Imports no torch; the pipelines ask here too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trainer.digests import file_digests
from trainer.errors import AdapterError, PolicyNotFoundError, RunFolderError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys of a model's JSON files that save_pretrained writes about where or by which version it was saved.
SAVED_BY_KEYS = frozenset({"_name_or_path", "name_or_path", "transformers_version", "is_local", "local_files_only"})


def local_folder(url: str, *, name: str) -> Path:
    """The path on this machine; raises RunFolderError for the URL of another store."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    if scheme in ("file", "local"):
        return Path(rest)
    raise RunFolderError(
        f"{name} is {url}, but the trainer keeps its state and the exported model on a local disk. Give a local folder "
        "and copy it to the store afterwards; the shaped datasets may stay there."
    )


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds an adapter rather than a whole model. Raises AdapterError where it holds both."""
    path = Path(folder)
    if not (path / ADAPTER_CONFIG).is_file():
        return False
    whole = sorted(file.name for file in path.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS)
    if whole and (path / "config.json").is_file():
        raise AdapterError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) and a whole model ({whole[0]}), so it is not clear which "
            f"one is meant. Move one of them to another folder, or remove {ADAPTER_CONFIG} if the adapter is merged."
        )
    return True


def base_folder(folder: str | Path) -> Path:
    """The folder of the whole model: the folder itself, or the base model an adapter names.

    Raises PolicyNotFoundError where there is no config.json; AdapterError where adapter_config.json is not readable or
    names no model folder on this machine.
    """
    path = Path(folder)
    if not is_adapter(path):
        if not (path / "config.json").is_file():
            raise PolicyNotFoundError(
                f"{folder} is no Hugging Face model folder: it has no config.json. Give the policy's folder."
            )
        return path
    try:
        named = str(json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path / ADAPTER_CONFIG} is not readable: {error!r}. Save the adapter again.") from error
    for candidate in (path / named, Path(named)):
        if (candidate / "config.json").is_file():
            return candidate
    raise AdapterError(
        f"The adapter {folder} names {named!r} as its base model, which is no model folder on this machine. Set "
        f"base_model_name_or_path in its {ADAPTER_CONFIG} to the folder (absolute, or relative to the adapter's)."
    )


def weights_digest(folder: str | Path) -> str:
    """sha256 (64 hexadecimal digits) over names and contents of the *.safetensors files; an adapter's includes its
    base's. Raises AdapterError.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    digests = {file.name: digest for file, digest in file_digests(files).items()}
    if is_adapter(folder):
        digests["base"] = weights_digest(base_folder(folder))
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
