"""A model named by its place on the hub or in a store is the same model as its folder, and is refused in words."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pass_ops import shards
from pass_ops.shards import Store
from pipelines.engines.base import EngineOptions, Sampling
from pipelines.models import source
from pipelines.models.folder import ModelNotFoundError, describe_model, load_tokenizer, model_digest
from pipelines.models.source import local_model, pinned_model
from pipelines.rollouts.stage import GenerateOptions, generate
from tests.pipelines.models.hub import COMMIT, fake_hub


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caches of the hub and of stores, empty; nothing of this process remembered."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "_OFFLINE", None)
    source._snapshot.cache_clear()
    return tmp_path / "cache" / "models"


@pytest.fixture
def hub(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with fake_hub(tiny_model) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield endpoint


@pytest.fixture
def stored(tiny_model: str) -> str:
    """The model in a store that is no disk."""
    url = f"memory://{uuid.uuid4().hex}/model"
    for file in Path(tiny_model).iterdir():
        Store(url).put(file.name, file.read_bytes())
    return url


def refused(model: str) -> str:
    with pytest.raises(ModelNotFoundError) as error:
        local_model(model)
    return str(error.value)


# --- the hub -------------------------------------------------------------------------------------------------------


def test_a_repository_of_the_hub_is_the_folder_it_holds(hub: str, tiny_model: str) -> None:
    found, known = describe_model("org/tiny"), describe_model(tiny_model)
    assert found.folder == pinned_model("org/tiny@v1") == f"org/tiny@{COMMIT}"
    assert pinned_model("hf://org/tiny") == f"hf://org/tiny@{COMMIT}"
    assert (found.digest, found.tokenizer_digest) == (known.digest, known.tokenizer_digest)
    assert load_tokenizer("org/tiny").decode([5, 6]) == load_tokenizer(tiny_model).decode([5, 6])


def test_once_here_it_needs_no_hub_any_more(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_model("org/tiny")
    source._snapshot.cache_clear()
    monkeypatch.setattr(source, "_OFFLINE", "1")
    assert local_model("org/tiny") == local_model(f"org/tiny@{COMMIT}") == folder


def test_a_datasets_model_is_recorded_with_its_commit_and_has_the_folders_fingerprint(
    hub: str, tmp_path: Path, tiny_model: str, write_sums: Callable[..., str], recorded: EngineOptions
) -> None:
    prompts = write_sums(2)
    for name, model in (("hub", "org/tiny"), ("folder", tiny_model)):
        generate(
            prompts=prompts,
            out=str(tmp_path / name),
            model=model,
            engine=recorded,
            options=GenerateOptions(group_size=2, sampling=Sampling(max_tokens=4)),
        )
    of_hub, of_folder = (shards.open_dataset(str(tmp_path / name)) for name in ("hub", "folder"))
    assert of_hub.spec.models["policy"].id == f"org/tiny@{COMMIT}"
    assert of_hub.content_digest == of_folder.content_digest


def test_what_the_hub_has_not_is_refused_in_words(hub: str) -> None:
    assert "the hub has no such repository" in refused("org/other")
    assert "it has no such revision" in refused("org/tiny@v2")
    assert "write hf://org/name" in refused("hf://tiny")


def test_offline_a_repository_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_OFFLINE", "1")
    assert "the hub cannot be reached from here" in refused("org/tiny")


def test_a_folder_that_is_there_comes_first_and_one_without_a_model_is_ambiguous(
    hub: str, tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "org/tiny")
    assert local_model("org/tiny") == pinned_model("org/tiny") == "org/tiny"
    assert local_model("hf://org/tiny") != "org/tiny"
    os.remove("org/tiny/config.json")
    assert "Write ./org/tiny for the folder, hf://org/tiny for the repository" in refused("org/tiny")
    assert local_model("./org/tiny") == "./org/tiny"


# --- stores --------------------------------------------------------------------------------------------------------


def test_a_model_in_a_store_is_the_folder_it_holds_and_is_copied_once(
    stored: str, tiny_model: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_digest(stored) == model_digest(tiny_model)
    (copy,) = [folder for folder in caches.iterdir() if folder.is_dir()]
    monkeypatch.setattr(source, "_fetch", None)  # calling it would raise
    assert local_model(stored) == str(copy)
    assert local_model(f"file://{tiny_model}") == tiny_model


def test_a_model_that_changed_in_its_store_is_another_copy(stored: str) -> None:
    before = local_model(stored)
    Store(stored).put("generation_config.json", b'{"temperature": 0.5}')
    assert local_model(stored) != before


def test_a_model_that_is_still_being_written_is_none_yet(stored: str) -> None:
    Store(stored).remove("config.json")
    assert "still being written" in refused(stored)


def test_a_url_that_cannot_be_read_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be listed (ValueError: Protocol not known: nowhere" in refused("nowhere://bucket/model")
    assert "holds no config.json" in refused(f"memory://{uuid.uuid4().hex}/model")


def test_a_copy_that_breaks_off_leaves_nothing_behind(
    stored: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = type(Store(stored).fs)
    monkeypatch.setattr(fs, "get_file", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    assert "No space left" in refused(stored)
    assert [entry for entry in caches.iterdir() if entry.is_dir()] == []
