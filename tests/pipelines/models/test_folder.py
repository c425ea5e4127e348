"""Digests of model folders, and what is said when a folder cannot be used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pass_ops.errors import PassError
from pipelines.models.folder import (
    ModelFilesError,
    ModelNotFoundError,
    VocabularyMismatchError,
    architecture,
    chat_template_digest,
    check_same_vocabulary,
    describe_model,
    load_tokenizer,
    vocabulary,
)


@pytest.fixture
def copy(tiny_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def edit(file: Path, **keys: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def test_a_copy_has_the_same_digests_wherever_it_lies(tiny_model: str, copy: Path) -> None:
    edit(copy / "config.json", _name_or_path="elsewhere", transformers_version="0.0")
    ours, theirs = describe_model(tiny_model), describe_model(str(copy))
    assert (ours.digest, ours.tokenizer_digest, ours.chat_template_digest, ours.vocabulary) == (
        theirs.digest,
        theirs.tokenizer_digest,
        theirs.chat_template_digest,
        theirs.vocabulary,
    )
    assert len(ours.digest) == 64


def test_each_digest_sees_its_own_files(tiny_model: str, tiny_model_updated: str, copy: Path) -> None:
    before = describe_model(tiny_model)
    assert describe_model(tiny_model_updated).digest != before.digest
    assert describe_model(tiny_model_updated).tokenizer_digest == before.tokenizer_digest
    edit(copy / "config.json", rms_norm_eps=1e-3)
    assert describe_model(str(copy)).digest != before.digest
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    after = describe_model(str(copy))
    assert after.chat_template_digest != before.chat_template_digest
    assert after.tokenizer_digest == before.tokenizer_digest


def test_a_chat_template_counts_wherever_it_is_kept(copy: Path) -> None:
    template = (copy / "chat_template.jinja").read_text()
    digest = chat_template_digest(str(copy))
    tokenizer = describe_model(str(copy)).tokenizer_digest
    (copy / "chat_template.jinja").unlink()
    edit(copy / "tokenizer_config.json", chat_template=template)
    assert chat_template_digest(str(copy)) == digest
    assert describe_model(str(copy)).tokenizer_digest == tokenizer


def test_rewritten_weights_change_the_digest(tiny_model_updated: str, copy: Path) -> None:
    before = describe_model(str(copy)).digest
    shutil.copy(Path(tiny_model_updated) / "model.safetensors", copy / "model.safetensors")
    assert describe_model(str(copy)).digest != before


def test_a_teacher_of_another_vocabulary_is_refused(
    tiny_model: str, tiny_model_updated: str, tiny_model_factory: Callable[..., str]
) -> None:
    assert check_same_vocabulary(policy=tiny_model, other=tiny_model_updated, role="teacher") == vocabulary(tiny_model)
    other = tiny_model_factory(seed=1, characters="01234xyz")
    with pytest.raises(VocabularyMismatchError, match=r"teacher .* token id 7 is 'x' there and '5' here") as error:
        check_same_vocabulary(policy=tiny_model, other=other, role="teacher")
    assert isinstance(error.value, PassError)
    assert isinstance(error.value, ValueError)


def test_what_is_missing_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        describe_model(str(tmp_path / "nowhere"))
    assert issubclass(ModelNotFoundError, FileNotFoundError)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFilesError, match=r"no config\.json"):
        describe_model(str(tmp_path / "empty"))
    shutil.move(copy / "model.safetensors", tmp_path / "kept")
    with pytest.raises(ModelFilesError, match=r"no \*\.safetensors"):
        describe_model(str(copy))
    (copy / "model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:40])
    with pytest.raises(ModelFilesError, match="cut off"):
        architecture(str(copy))
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFilesError, match="not a readable tokenizer"):
        vocabulary(str(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelFilesError, match=r"no tokenizer\.json"):
        vocabulary(str(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelFilesError, match=r"config\.json is not readable JSON"):
        architecture(str(copy))


def test_architectures_differ_by_config_tokenizer_or_tensors(
    tiny_model: str, tiny_model_updated: str, copy: Path
) -> None:
    ours = architecture(tiny_model)
    assert ours.difference(architecture(tiny_model_updated)) is None
    edit(copy / "generation_config.json", eos_token_id=[1, 0])
    assert "generation_config.json differs in 'eos_token_id'" in str(ours.difference(architecture(str(copy))))
    edit(copy / "config.json", num_hidden_layers=3)
    assert "config.json differs in 'num_hidden_layers': 2 and 3" in str(ours.difference(architecture(str(copy))))


def test_the_tokenizer_round_trips_and_has_its_template(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.model_max_length > 10**9  # no warning of a text that the engine's context refuses
    assert tokenizer.decode(tokenizer.encode("1+2=?\n")) == "1+2=?\n"
    messages = [{"role": "user", "content": "1+1"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "u: 1+1\na: "


def test_describing_a_model_needs_no_torch(tiny_model: str) -> None:
    script = (
        "import sys; from pipelines.models.folder import describe_model, load_tokenizer; "
        f"describe_model({tiny_model!r}); load_tokenizer({tiny_model!r}); "
        "assert not {'torch', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
