"""Packages beyond the base install: which extra of passrl brings each, and the sentence where one is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from pass_ops.errors import PassError

#: importable name -> the extra that installs it
EXTRAS = {
    "apitools": "gcp",
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
_CONTAINS = {"cpu": "models"}


class MissingExtraError(PassError, ImportError):
    """Packages are not installed; the message names the extra that brings them.

    needs: what needs each, as (purpose, package).
    """

    def __init__(self, extra: str, needs: Iterable[tuple[str, str]]) -> None:
        self.extra, self.needs = extra, tuple(dict.fromkeys(needs))
        purposes = " and ".join(dict.fromkeys(purpose for purpose, _ in self.needs))
        packages = ", ".join(dict.fromkeys(package for _, package in self.needs))
        fix = f"pip install 'passrl[{extra}]'{_OR_ON_A_GPU.get(extra, '')}"
        super().__init__(f"not installed: {packages}, needed for {purposes}; {fix}", fix=fix)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, tuple[tuple[str, str], ...]]]:
        return type(self), (self.extra, self.needs)


def require(package: str, purpose: str) -> Any:
    """Import an optional package. Raises MissingExtraError, which says what needs it and how to install it.

    >>> require("json", "nothing").dumps([1])
    '[1]'
    """
    try:
        return import_module(package)
    except ImportError as error:
        missing = missing_extra(error, purpose)
        if missing is None:
            raise
        raise missing from error


def missing_extra(error: BaseException, purpose: str) -> MissingExtraError | None:
    """What to raise instead of an error that comes from a package not installed; None for any other error.

    >>> print(missing_extra(ModuleNotFoundError("No module named 'peft'", name="peft"), "LoRA"))
    not installed: peft, needed for LoRA; pip install 'passrl[lora]'
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MissingExtraError):
            return found
        name = found.name if isinstance(found, ModuleNotFoundError) else None  # of a module, or of a distribution
        package = (name or "").partition(".")[0].replace("-", "_")
        if package in EXTRAS:
            return MissingExtraError(EXTRAS[package], [(purpose, package)])
        found = found.__cause__
    return None


def by_extra(errors: Iterable[MissingExtraError]) -> Iterator[MissingExtraError]:
    """The same with one error for each extra to install; what a larger extra contains is not named apart.

    >>> errors = [MissingExtraError("models", [("training", "torch")]), MissingExtraError("cpu", [("vllm", "vllm")])]
    >>> [error.extra for error in by_extra(errors)]
    ['cpu']
    """
    needs: dict[str, list[tuple[str, str]]] = {}
    for error in errors:
        needs.setdefault(error.extra, []).extend(error.needs)
    for larger, smaller in _CONTAINS.items():
        if larger in needs:
            needs[larger] += needs.pop(smaller, [])
    for extra, pairs in needs.items():
        yield MissingExtraError(extra, pairs)
