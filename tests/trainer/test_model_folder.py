"""One answer to what a model folder is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from trainer.digests import file_digest
from trainer.errors import AdapterError, PolicyNotFoundError
from trainer.model_folder import base_folder, is_adapter, weights_digest


@pytest.fixture
def adapter(policy_folder, tmp_path) -> Path:
    """The files of an adapter on top of the random model."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": policy_folder}))
    (folder / "adapter_model.safetensors").write_bytes(b"matrices")
    return folder


def test_a_whole_model_is_its_own_base(policy_folder):
    assert not is_adapter(policy_folder)
    assert base_folder(policy_folder) == Path(policy_folder)


def test_an_adapter_has_the_base_it_names_from_anywhere_or_beside_it(adapter, policy_folder):
    assert is_adapter(adapter)
    assert base_folder(adapter) == Path(policy_folder)
    shutil.copytree(policy_folder, adapter.parent / "base")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base"}))
    assert base_folder(adapter).resolve() == (adapter.parent / "base").resolve()


def test_an_adapter_that_carries_its_bases_config_is_an_adapter(adapter, policy_folder):
    before = weights_digest(adapter)
    shutil.copy(Path(policy_folder) / "config.json", adapter)
    assert is_adapter(adapter)
    assert base_folder(adapter) == Path(policy_folder)
    assert weights_digest(adapter) == before


def test_a_folder_that_is_both_is_refused(adapter, policy_folder):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(policy_folder) / name, adapter)
    for question in (is_adapter, base_folder, weights_digest):
        with pytest.raises(AdapterError, match=r"an adapter \(adapter_config.json\) and a whole model"):
            question(adapter)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"base_model_name_or_path": "/gone"}'])
def test_an_adapter_without_a_base_is_refused(adapter, config):
    (adapter / "adapter_config.json").write_text(config)
    with pytest.raises(AdapterError, match=r"adapter"):
        base_folder(adapter)


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(PolicyNotFoundError, match=r"no config\.json"):
        base_folder(tmp_path)


def test_the_digest_of_an_adapter_is_of_both(adapter, policy_folder):
    before = weights_digest(adapter)
    assert before != weights_digest(policy_folder)
    (adapter / "adapter_model.safetensors").write_bytes(b"others")
    assert weights_digest(adapter) != before


def test_a_cached_digest_ends_with_a_change_of_size_or_time(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = file_digest(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert file_digest(file) != first
