"""The tokenizer that a dataset was sampled with, found on this machine by its digest."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pipelines.models.folder import check_model_folder, tokenizer_digest
from pipelines.models.source import hub_repository, local_model
from pipelines.view.texts import TokenTexts, TokenTextsError, read_token_texts


class OtherTokenizerError(PassError, ValueError):
    """A tokenizer that is not the one the rollouts were sampled with."""


def dataset_texts(dataset: CompleteDataset, *, folder: str | None = None) -> tuple[TokenTexts | None, str]:
    """The dataset's token texts, and a sentence about where they are from, or about why there are none.

    folder: a tokenizer's folder, or a model by any of its names; otherwise those are tried that the dataset and the run
    around it name, as far as they lie on this machine: nothing is fetched.

    Raises, for a `folder` alone: OtherTokenizerError, TokenTextsError, ModelNotFoundError, ModelFilesError.
    """
    recorded = dataset.spec.carried.get("tokenizer_digest")
    if folder is not None:
        place = local_model(folder)
        if recorded and (found := tokenizer_digest(place)) != recorded:
            raise OtherTokenizerError(
                f"--tokenizer: {folder} has the digest {found[:16]}, {dataset.url} was sampled with "
                f"{str(recorded)[:16]}: its tokens would be shown as other texts. Give the policy's own folder"
            )
        return read_token_texts(check_model_folder(place)), f"Token texts are those of the tokenizer in {folder}."
    reasons = []
    for model in _models(dataset):
        try:
            place = _local(model)
            if recorded and tokenizer_digest(place) != recorded:
                reasons.append(f"{place} holds another tokenizer")
                continue
            return read_token_texts(check_model_folder(place)), f"Token texts are those of the tokenizer in {place}."
        except PassError as error:
            reasons.append(str(error).partition("\n")[0])
    said = "; ".join(reasons) or "the dataset names none"
    return None, (
        f"No tokenizer was found ({said}): rollouts are shown as their decoded text, without a colour for each token. "
        "Make the file again with --tokenizer."
    )


def _models(dataset: CompleteDataset) -> Iterator[str]:
    """Names of models that may have the tokenizer."""
    if (policy := dataset.spec.models.get("policy")) is not None:
        yield policy.id
    round_folder = dataset.url.rstrip("/").rpartition("/")[0]
    yield f"{round_folder}/policy"


def _local(model: str) -> str:
    """The model's folder here, or its copy in the hub's cache. Raises TokenTextsError where it would be fetched."""
    repository = hub_repository(model)
    if repository is None and "://" not in model:
        return model
    file = None
    if repository is not None and find_spec("huggingface_hub") is not None:
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = repository.partition("@")
        file = try_to_load_from_cache(name, "tokenizer.json", revision=revision or None)
    if not isinstance(file, str):
        raise TokenTextsError(f"{model} is not on this machine")
    return str(Path(file).parent)
