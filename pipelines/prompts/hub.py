"""Datasets of the Hugging Face hub (`hf://datasets/OWNER/NAME[@REVISION]/PATH`), read at a commit that is recorded."""

from __future__ import annotations

from dataclasses import replace

from pass_ops.errors import PassError
from pass_ops.shards.store import Store

PREFIX = "hf://"


class HubError(PassError, OSError):
    """The hub cannot be asked, or has no such repository or revision."""


def at_commit(url: str) -> str:
    """The URL with the commit that its branch or tag names now; what is not the hub's is returned as it is.

    Raises:
        HubError: the hub does not answer, or not with such a repository.
    """
    if not url.startswith(PREFIX):
        return url
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the httpx it uses
        from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath
    except ImportError as error:
        raise HubError(
            f"{url} is read with huggingface_hub, which is not installed: pip install 'passrl[hub]'."
        ) from error
    fs = Store(url).fs
    try:
        found = fs.resolve_path(url)
        if not isinstance(found, HfFileSystemResolvedRepositoryPath):  # a bucket, which has no revisions
            raise HubError(f"{url} has no revision to record. Give hf://datasets/OWNER/NAME/PATH, or copy the files.")
        info = HfApi(endpoint=fs.endpoint, token=fs.token).repo_info(
            found.repo_id, repo_type=found.repo_type, revision=found.revision
        )
    except (HTTPError, FileNotFoundError, ValueError, NotImplementedError) as error:
        raise HubError(
            f"{url} was not found on the hub at {fs.endpoint} ({error}). Check the name and the revision, and HF_TOKEN "
            "for a dataset that is not public; HF_ENDPOINT names another hub."
        ) from error
    return f"{PREFIX}{replace(found, revision=str(info.sha), _raw_revision=None).unresolve()}"
