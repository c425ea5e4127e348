"""The tokenizer that a dataset was sampled with, found on this machine by its digest."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pipelines.models.folder import check_model_folder, tokenizer_digest
from pipelines.models.source import hub_repository, local_model


class OtherTokenizerError(PassError, ValueError):
    """A tokenizer that is not the one the rollouts were sampled with."""


class NoTokenizerError(PassError, LookupError):
    """No model that a dataset names has its tokenizer on this machine."""


def find_tokenizer(dataset: CompleteDataset, *, folder: str | None = None) -> Path:
    """The folder with the tokenizer that the dataset's token ids are of.

    folder: a tokenizer's folder, or a model by any of its names; otherwise those are tried that the dataset and the run
    around it name, as far as they lie on this machine: nothing is fetched.

    Raises NoTokenizerError, also where a folder has no tokenizer.json; of a `folder`: OtherTokenizerError,
    ModelNotFoundError, ModelFilesError.
    """
    recorded = dataset.spec.carried.get("tokenizer_digest")
    if folder is not None:
        place = local_model(folder)
        if recorded and (found := tokenizer_digest(place)) != recorded:
            raise OtherTokenizerError(
                f"--tokenizer: {folder} holds another tokenizer now: its digest is {found[:16]}, {dataset.url} was "
                f"sampled with {str(recorded)[:16]}: its tokens would be shown as other texts. Give the policy's own "
                "folder"
            )
        return _with_texts(place)
    reasons = []
    for model in _models(dataset):
        try:
            place = _local(model)
            if recorded and tokenizer_digest(place) != recorded:
                reasons.append(f"{place} holds another tokenizer")
                continue
            return _with_texts(place)
        except PassError as error:
            reasons.append(str(error).partition("\n")[0])
    raise NoTokenizerError("; ".join(reasons))


def _with_texts(folder: str) -> Path:
    """The folder, which has to hold the one file that says what each token is."""
    place = check_model_folder(folder)
    if not (place / "tokenizer.json").exists():
        raise NoTokenizerError(f"{folder} has no tokenizer.json")
    return place


def _models(dataset: CompleteDataset) -> Iterator[str]:
    """Names of models that may have the tokenizer."""
    if (policy := dataset.spec.models.get("policy")) is not None:
        yield policy.id
    round_folder = dataset.url.rstrip("/").rpartition("/")[0]
    yield f"{round_folder}/policy"


def _local(model: str) -> str:
    """The model's folder here, or its copy in the hub's cache. Raises NoTokenizerError where it would be fetched."""
    repository = hub_repository(model)
    file = None
    if repository is None and "://" not in model and Path(model).is_dir():
        return model
    if repository is not None and find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = repository.partition("@")
        file = try_to_load_from_cache(name, "tokenizer.json", revision=revision or None)
    if not isinstance(file, str):
        raise NoTokenizerError(f"{model} is not on this machine")
    return str(Path(file).parent)
