from __future__ import annotations

import hashlib
import pickle

import pytest

from pass_ops.errors import SpecError
from pass_ops.shards import DatasetSpec, InputRef, ModelRef, canonical_json, folder_digest, sha256_bytes
from pass_ops.shards.fingerprint import content_digest
from pass_ops.shards.spec import differences, parse_dataset_json

SPEC = {"stage": "score", "stage_version": 1, "options": {"k": 0.7}, "parts": 2}


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1.0, True, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,true,null]}'
    assert canonical_json({"a": -0.0}) == canonical_json({"a": 0})
    assert canonical_json(1e300) == "1e+300"


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "nan"), (b"x", "bytes"), ({1: 2}, "key 1"), ({"a": {"b": {1, 2}}}, "a.b")]
)
def test_what_json_cannot_hold_is_refused_by_name(value, says):
    with pytest.raises(SpecError, match=says):
        canonical_json(value)


def test_the_fingerprint_is_the_sha256_of_what_decides_the_bytes():
    spec = DatasetSpec(**SPEC, seed=3, carried={"round": 1})
    text = (
        '{"environment":{},"format_version":1,"inputs":{},"models":{},"options":{"k":0.7},"parts":2,"round":1,'
        '"seed":3,"stage":"score","stage_version":1}'
    )
    assert spec.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"stage_version": 2},
        {"options": {"k": 0.8}},
        {"parts": 3},
        {"seed": 4},
        {"environment": {"numpy": "2.3"}},
        {"carried": {"round": 1}},
        {"inputs": {"rollouts": InputRef("../rollouts", "b" * 64)}},
        {"models": {"teacher": ModelRef("t", "d" * 64)}},
    ],
)
def test_every_field_that_decides_the_bytes_changes_the_fingerprint(change):
    base = {
        **SPEC,
        "inputs": {"rollouts": InputRef("../rollouts", "a" * 64)},
        "models": {"teacher": ModelRef("t", "c" * 64)},
    }
    assert DatasetSpec(**{**base, **change}).fingerprint != DatasetSpec(**base).fingerprint


def test_names_of_models_and_folders_of_inputs_do_not_change_the_fingerprint():
    here = DatasetSpec(
        **SPEC, inputs={"rollouts": InputRef("../rollouts", "a" * 64)}, models={"teacher": ModelRef("here", "c" * 64)}
    )
    there = DatasetSpec(
        **SPEC, inputs={"rollouts": InputRef("s3://b/r", "a" * 64)}, models={"teacher": ModelRef("there", "c" * 64)}
    )
    assert here.fingerprint == there.fingerprint


def test_sources_of_prompts_count_by_content_and_order_not_by_path():
    def prompts(**sources):
        spec = {**SPEC, "stage": "prompts"}
        return DatasetSpec(
            **spec, inputs={path: InputRef(path, digest) for path, digest in sources.items()}
        ).fingerprint

    assert prompts(a="1", b="2") == prompts(c="1", d="2")
    assert prompts(a="1", b="2") != prompts(b="2", a="1")


def test_dataset_json_gives_back_the_spec_and_what_it_replaced():
    spec = DatasetSpec(
        **SPEC,
        inputs={"rollouts": InputRef("../rollouts", "a" * 64)},
        models={"teacher": ModelRef("t", "c" * 64)},
        carried={"sampling": {"group_size": 4}, "policy_digest": "e" * 64},
    )
    back, replaced = parse_dataset_json(spec.to_json(replaced=("f" * 64,)), "here")
    assert (back, replaced) == (spec, ("f" * 64,))
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage": "train"}, "prompts, generate, score, shape"),
        ({"parts": 0}, "at least one part"),
        ({"stage": "generate"}, "group_size"),
        ({"carried": {"seed": 1}}, "seed"),
    ],
)
def test_a_spec_that_describes_no_dataset_is_refused(change, says):
    with pytest.raises(SpecError, match=says):
        DatasetSpec(**{**SPEC, **change})


def test_differences_name_each_field_with_both_values():
    there = DatasetSpec(**SPEC, carried={"sampling": {"top_p": 1.0}})
    asked = DatasetSpec(**{**SPEC, "options": {"k": 1.0, "eta": 0.1}}, carried={"sampling": {"top_p": 0.9}})
    assert differences(there, asked) == [
        "options.k: 0.7 there, 1 asked",
        "sampling.top_p: 1 there, 0.9 asked",
        "options.eta: absent there, 0.1 asked",
    ]
    assert "options.eta: 0.1 there, absent asked" in differences(asked, there)


def test_the_content_digest_is_over_the_fingerprint_and_the_parts_in_order():
    assert content_digest("fp", ["a", "b"]) == hashlib.sha256(b"fp\na\nb\n").hexdigest()


def test_a_folder_digest_depends_on_names_and_contents_and_not_on_where_it_lies(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "b.txt").write_text("b")
        (tmp_path / name / "a.txt").write_text("a")
    one = folder_digest(str(tmp_path / "one"))
    expected = f"{sha256_bytes(b'a')} a.txt\n{sha256_bytes(b'b')} sub/b.txt\n"
    assert one == sha256_bytes(expected.encode()) == folder_digest(str(tmp_path / "two"))
    (tmp_path / "one" / ".git").mkdir()
    (tmp_path / "one" / ".git" / "x").write_text("x")
    assert folder_digest(str(tmp_path / "one")) == one
    (tmp_path / "two" / "sub" / "b.txt").rename(tmp_path / "two" / "sub" / "c.txt")
    assert folder_digest(str(tmp_path / "two")) != one
    assert folder_digest(str(tmp_path / "one" / "a.txt")) == sha256_bytes(b"a")


def test_the_digest_of_one_file_is_its_own_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".hidden").write_text("x")
    monkeypatch.chdir(tmp_path)
    digest = sha256_bytes(b"a")
    assert [folder_digest(url) for url in (f"{tmp_path}/a.txt", f"{tmp_path}/a.txt/", "a.txt")] == [digest] * 3
    assert folder_digest(str(tmp_path)) == sha256_bytes(f"{digest} a.txt\n".encode())
    with pytest.raises(FileNotFoundError):
        folder_digest(str(tmp_path / "b.txt"))
