"""Small files that are empty, cut off, or written by somebody who means harm: named errors, never tracebacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from verifying import forge_list

from pass_ops.errors import PassError
from pass_ops.shards import (
    CompleteDataset,
    DatasetSpec,
    InputRef,
    Rejection,
    begin_attempt,
    create_dataset,
    fail_part,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    sha256_bytes,
    status,
    verify,
)
from pass_ops.shards.fingerprint import json_file

FILES = ("_dataset.json", "_manifest-{}.json", "_parts-{}.jsonl", "_done/000000-{}.json", "_failed/000002-{}.json",
         "_attempts/000000-{}-1.json", "_run.json")  # fmt: skip
WRONG = (None, True, -1, 0.5, 2**63, 10**400, "", "\ud800", "../../etc/passwd", [], [[]], {}, {"": -1}, {"x": "y"})
WHOLE = (
    b"",
    b" ",
    b"{}",
    b"[]",
    b"[{}]",
    b"null",
    b"0",
    b'"text"',
    b"NaN",
    b'{"part": NaN}',
    b"[" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"[" * 900 + b"]" * 900,
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    '{"part": 0}'.encode("utf-16"),
    b'{"part": 0, "part": 0}',
    b'{"part": ' + b"9" * 5000 + b"}",
    b"\x00" * 300,
    b"{}\n{}\n",
)


def uses(url: str, spec: DatasetSpec) -> dict[str, Callable[[], object]]:
    """Everything that is done with a dataset's folder."""
    return {
        "open": lambda: open_dataset(url),
        "status": lambda: status(url),
        "verify": lambda: verify(url),
        "resume": lambda: pending_parts(create_dataset(url, spec)),
        "finalize": lambda: finalize(load_dataset(url), max_reject_rate=1.0),
    }


def contents(sound: bytes) -> Iterator[bytes]:
    """The file cut off everywhere, replaced by something else, with each value replaced and each key left out."""
    yield from (sound[:length] for length in range(len(sound)))
    yield from WHOLE
    lines = sound.splitlines() if sound.count(b"\n{") else [sound]
    document = json.loads(lines[0])
    for key in document:
        yield b"\n".join([json.dumps({k: v for k, v in document.items() if k != key}).encode(), *lines[1:]])
        for value in WRONG:
            yield b"\n".join([json.dumps({**document, key: value}).encode(), *lines[1:]])


@pytest.fixture
def made(tmp_path, make_dataset, rollouts, generate_spec) -> CompleteDataset:
    """In memory, two parts, rejections, an attempt, a part given up that does not exist."""
    url = f"memory://hostile-{tmp_path.name}"
    spec = generate_spec(parts=2, inputs={"prompts": InputRef("../prompts", "a" * 64)})
    complete = make_dataset(
        url, rollouts("a"), rollouts("b"), spec=spec, rejected=[Rejection(prompt_id="x", reason="r")]
    )
    dataset = load_dataset(url)
    begin_attempt(dataset, 0)
    fail_part(dataset, 2, cause="c", traceback="t")
    return complete


@pytest.mark.parametrize("file", FILES)
def test_whatever_stands_in_a_small_file_is_used_or_named(made, file):
    name = file.format(made.spec.fingerprint[:8])
    everything = {path: made.store.read(path) for path in _all_files(made)}
    manifest = f"_manifest-{made.spec.fingerprint[:8]}.json"
    if file.startswith("_done"):  # nobody needs the markers of a dataset that has a manifest
        made.store.remove(manifest)
        del everything[manifest]
    refused = 0
    for number, content in enumerate(contents(made.store.read(name))):
        made.store.put(name, content)
        for use, act in uses(made.url, made.spec).items():
            if use == "verify" and number % 10:
                continue  # it reads every part, too
            says = _refusal(act)
            refused += says is not None
            assert says is None or made.store.path("").strip("/") in says, (use, content[:80])
        for path, sound in everything.items():
            made.store.put(path, sound)
        if manifest not in everything:
            made.store.remove(manifest)
    if manifest not in everything:
        finalize(load_dataset(made.url), max_reject_rate=1.0)
    assert refused or file.startswith(("_attempts", "_run", "_failed"))
    assert open_dataset(made.url) == made


def _refusal(act: Callable[[], object]) -> str | None:
    try:
        act()
    except PassError as error:
        return str(error)
    return None


def _all_files(made: CompleteDataset) -> list[str]:
    folders = ("", "_done", "_rejected", "_attempts", "_failed")
    return [f"{folder}/{entry.name}".lstrip("/") for folder in folders for entry in made.store.entries(folder)]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "part-000000-{fp8}-00000000.parquet/../x", "s3://b/x", "file:///etc/passwd", "",
     "part-000001-{fp8}-{sha8}.parquet", "PART-000000-{fp8}-{sha8}.parquet", "part-000000-{fp8}-{sha8}.parquet\n"],
)  # fmt: skip
def test_a_list_that_names_another_file_is_refused_though_every_digest_agrees(made, name):
    first = made.parts[0]
    fields = {"fp8": made.spec.fingerprint[:8], "sha8": first.sha256[:8]}
    for key in ("data", "rejected"):
        forge_list(made, [type(first)(**{**vars(first), key: name.format(**fields)}), made.parts[1]])
        with pytest.raises(PassError, match="belongs"):
            open_dataset(made.url)
        marker = f"_done/000000-{fields['fp8']}.json"
        sound = made.store.read(marker)
        made.store.put(marker, json_file({**json.loads(sound), key: name.format(**fields)}))
        assert {"corrupt", "marker"} & {finding.code for finding in verify(made.url)}
        with pytest.raises(PassError, match="belongs"):
            finalize(load_dataset(made.url), max_reject_rate=1.0)
        made.store.put(marker, sound)


@pytest.mark.parametrize(
    ("key", "value"),
    [("content_digest", "0" * 64), ("stage", "shape"), ("fingerprint", "0" * 64), ("rejected", {}), ("totals", None),
     ("groups_by_size", {"2": 3}), ("format_version", 1)],
)  # fmt: skip
def test_a_forged_manifest_is_refused(made, key, value):
    manifest = f"_manifest-{made.spec.fingerprint[:8]}.json"
    document = json.loads(made.store.read(manifest))
    forged = {**document["totals"], "rows": 5} if value is None else value
    made.store.put(manifest, json_file({**document, key: forged}))
    with pytest.raises(PassError, match=key):
        open_dataset(made.url)


def test_counts_of_the_list_that_agree_with_a_forged_manifest_are_found_by_verify(made):
    forge_list(made, [type(made.parts[0])(**{**vars(made.parts[0]), "rows": 7}), made.parts[1]])
    assert open_dataset(made.url).manifest.totals["rows"] == 9
    assert "counts" in {finding.code for finding in verify(made.url)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parts": 10**9}, "at most"),
        ({"parts": True}, "parts is True"),
        ({"options": []}, "options is"),
        ({"environment": None}, "environment is"),
        ({"inputs": {"a": {"folder": 1, "content_digest": "x"}}}, "folder is 1"),
        ({"inputs": {"a": []}}, "not an object"),
        ({"models": {"a": {"id": "x"}}}, "lacks digest"),
        ({"seed": "x"}, "seed is"),
        ({"stage": "none"}, "stage is"),
        ({"replaced": [1]}, "replaced is"),
    ],
)
def test_a_description_whose_fingerprint_is_right_and_whose_fields_are_not(made, changes: dict[str, Any], says):
    document = {**json.loads(made.store.read("_dataset.json")), **changes}
    made.store.put("_dataset.json", json_file(document))
    with pytest.raises(PassError, match=says):
        open_dataset(made.url)


def test_a_description_that_says_its_own_fingerprint_was_replaced_removes_nothing(made):
    document = json.loads(made.store.read("_dataset.json"))
    made.store.put("_dataset.json", json_file({**document, "replaced": [document["fingerprint"]]}))
    before = _all_files(made)
    with pytest.raises(PassError, match="its own fingerprint was replaced"):
        create_dataset(made.url, made.spec)
    assert _all_files(made) == before
    assert sha256_bytes(made.store.read(made.parts[0].data)) == made.parts[0].sha256
