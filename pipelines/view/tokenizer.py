"""The tokenizer that a dataset was sampled with, found on this machine by its digest."""

from __future__ import annotations

from collections.abc import Iterator

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pipelines.models.folder import tokenizer_digest
from pipelines.models.source import local_model
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
        return read_token_texts(place), f"Token texts are those of the tokenizer in {folder}."
    reasons = []
    for place in _places(dataset):
        try:
            if recorded and tokenizer_digest(place) != recorded:
                reasons.append(f"{place} holds another tokenizer")
                continue
            return read_token_texts(place), f"Token texts are those of the tokenizer in {place}."
        except (PassError, TokenTextsError) as error:
            reasons.append(str(error).partition("\n")[0])
    said = "; ".join(reasons) or "the dataset names none"
    return None, (
        f"No tokenizer was found ({said}): rollouts are shown as their decoded text, without a colour for each token. "
        "Make the file again with --tokenizer."
    )


def _places(dataset: CompleteDataset) -> Iterator[str]:
    """Folders on this machine that may hold the tokenizer."""
    for role in ("policy", "tokenizer"):
        if role in dataset.spec.models:
            yield dataset.spec.models[role].id
    round_folder = dataset.url.rstrip("/").rpartition("/")[0]
    yield f"{round_folder}/policy"
