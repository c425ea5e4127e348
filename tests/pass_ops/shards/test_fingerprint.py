from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from verifying import said

from pass_ops.errors import SpecError
from pass_ops.shards import DatasetSpec, InputRef, ModelRef, canonical_json, folder_digest, sha256_bytes
from pass_ops.shards.fingerprint import content_digest, json_file
from pass_ops.shards.spec import differences, parse_dataset_json

SPEC = {"stage": "score", "stage_version": 1, "options": {"k": 0.7}, "parts": 2}


def test_canonical_json_is_one_text_for_one_value():
    assert canonical_json({"b": [1.0, True, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,true,null]}'
    assert canonical_json({"a": -0.0}) == canonical_json({"a": 0})
    assert canonical_json(1e300) == "1e+300"


def test_integral_floats_are_integers_as_long_as_those_are_exact():
    numbers = [2.0**53 - 1, 2.0**53, -(2.0**53), -0.0, 0.5, np.float64(0.7)]
    assert canonical_json(numbers) == "[9007199254740991,9007199254740992.0,-9007199254740992.0,0,0.5,0.7]"
    assert canonical_json((1, (True, np.str_("x")))) == '[1,[true,"x"]]'


FINITE = "a dataset's description holds finite numbers only"
HOLDS = "which JSON cannot hold; give strings, numbers, booleans, lists and tables only"
KEYS = "keys in a dataset's description are strings"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), f"the value is nan; {FINITE}"),
        ({"a": [0.0, float("inf")]}, f"a[1] is inf; {FINITE}"),
        (b"x", f"the value is b'x' (bytes), {HOLDS}"),
        ({"a": {"b": {1}}}, f"a.b is {{1}} (set), {HOLDS}"),
        ([np.int64(1)], f"[0] is np.int64(1) (int64), {HOLDS}"),
        ({1: 2}, f"the value has the key 1; {KEYS}"),
        ({"a": {None: 1}}, f"a has the key None; {KEYS}"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(value, says):
    assert said(SpecError, lambda: canonical_json(value)) == says


def test_a_file_for_people_keeps_the_order_of_its_keys_and_holds_no_nan():
    assert json_file({"b": "é", "a": [1]}) == '{\n "b": "é",\n "a": [\n  1\n ]\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_file({"a": float("nan")})


def test_the_fingerprint_is_the_sha256_of_what_decides_the_bytes():
    spec = DatasetSpec(
        **SPEC,
        inputs={"rollouts": InputRef("../rollouts", "aa")},
        models={"teacher": ModelRef("t", "cc")},
        seed=3,
        environment={"numpy": "2"},
        carried={"round": 1},
    )
    text = (
        '{"environment":{"numpy":"2"},"format_version":2,"inputs":{"rollouts":"aa"},"models":{"teacher":"cc"},'
        '"options":{"k":0.7},"parts":2,"round":1,"seed":3,"stage":"score","stage_version":1}'
    )
    assert spec.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    in_version_1 = text.replace('"format_version":2', '"format_version":1')
    assert replace(spec, format_version=1).fingerprint == hashlib.sha256(in_version_1.encode()).hexdigest()


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


NO_SIZE = "carried holds no sampling.group_size; without it rejected prompts cannot be counted as rollouts"
OWN_KEYS = "which are keys of _dataset.json itself; rename them"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stage": "train"}, "stage is 'train'; it is one of prompts, generate, score, shape"),
        ({"parts": 0}, "parts is 0; a dataset has at least one part"),
        ({"parts": True}, "parts is True; a dataset has at least one part"),
        ({"stage": "generate"}, NO_SIZE),
        ({"stage": "generate", "carried": {"sampling": [4]}}, NO_SIZE),
        ({"stage": "generate", "carried": {"sampling": {"group_size": "4"}}}, NO_SIZE),
        ({"carried": {"seed": 1}}, f"carried holds seed, {OWN_KEYS}"),
        (
            {"carried": {"replaced": [], "fingerprint": "x", "format_version": 1, "round": 0}},
            f"carried holds fingerprint, format_version, replaced, {OWN_KEYS}",
        ),
        ({"options": {"k": float("nan")}}, f"options.k is nan; {FINITE}"),
        ({"environment": {"k": float("nan")}}, f"environment.k is nan; {FINITE}"),
        ({"carried": {"k": float("nan")}}, f"carried.k is nan; {FINITE}"),
    ],
)
def test_a_spec_that_describes_no_dataset_is_refused(change, says):
    assert said(SpecError, lambda: DatasetSpec(**{**SPEC, **change})) == says


def test_one_part_is_enough_and_the_group_size_is_known_where_it_is_said():
    assert DatasetSpec(**{**SPEC, "parts": 1}).group_size is None
    assert DatasetSpec(**SPEC, carried={"sampling": {"group_size": 4}}).group_size == 4


def test_what_a_spec_is_given_may_change_afterwards():
    options = {"k": [1.0]}
    spec = DatasetSpec(**{**SPEC, "options": options})
    options["k"].append(2.0)
    assert spec.options == {"k": [1]}


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
