"""Where a dataset's tokenizer is looked for, and that nothing is fetched for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest

from pass_ops.shards import CompleteDataset
from pass_ops.shards.spec import ModelRef
from pipelines.view.texts import dataset_texts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def sampled_with(store_run, row, byte_tokenizer):
    """sampled_with(model): a shaped dataset that says so, whose tokenizer is the byte tokenizer."""

    def made(model: str) -> CompleteDataset:
        dataset = store_run([row("a/0", 1)], carried={"tokenizer_digest": byte_tokenizer[1]}).shaped
        return replace(dataset, spec=replace(dataset.spec, models={"policy": ModelRef(id=model, digest="d")}))

    return made


def test_the_recorded_folder_is_read(sampled_with, byte_tokenizer):
    texts, note = dataset_texts(sampled_with(byte_tokenizer[0]))
    assert texts.pieces[65] == b"A"
    assert byte_tokenizer[0] in note


def test_the_policy_beside_the_dataset_is_read_where_the_recorded_one_is_gone(sampled_with, byte_tokenizer, tmp_path):
    dataset = sampled_with(str(tmp_path / "gone"))
    assert dataset_texts(dataset)[0] is None
    shutil.copytree(byte_tokenizer[0], Path(dataset.url).parent / "policy")
    assert dataset_texts(dataset)[0].pieces[65] == b"A"


def test_another_tokenizer_in_its_place_is_passed_over_and_named(sampled_with, tiny_model):
    texts, note = dataset_texts(sampled_with(tiny_model))
    assert texts is None
    assert f"{tiny_model} holds another tokenizer" in note


def test_a_model_of_the_hub_is_read_from_its_cache(sampled_with, byte_tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    shutil.copytree(byte_tokenizer[0], cache / "models--org--name" / "snapshots" / COMMIT)
    assert dataset_texts(sampled_with(f"org/name@{COMMIT}"))[0].pieces[65] == b"A"


@pytest.mark.parametrize("model", [f"org/name@{COMMIT}", "org/name", "s3://bucket/model"])
def test_what_is_not_on_this_machine_is_not_fetched(sampled_with, tmp_path, monkeypatch, model):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("pipelines.models.source._snapshot", lambda name: pytest.fail(f"fetched {name}"))
    monkeypatch.setattr("pipelines.models.source._copied", lambda url: pytest.fail(f"fetched {url}"))
    texts, note = dataset_texts(sampled_with(model))
    assert texts is None
    assert f"{model} is not on this machine" in note
