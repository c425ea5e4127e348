"""A folder may have any name, on every store: no character in it is a pattern or begins another file system."""

from __future__ import annotations

import pytest

from pass_ops.shards import (
    Rejection,
    commit_part,
    create_dataset,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    status,
    verify,
)

NAMES = [
    "run[1]",
    "run[!a]",
    "r*n",
    "run?",
    "{run1,run2}",
    "a::b",
    "::",
    "100%",
    "%20",
    "#1",
    "a b",
    "ünï",
    "a+b&c=d",
    "~",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_is_written_resumed_and_read_in_a_folder_of_any_name(root, generate_spec, rollouts, name):
    beside = create_dataset(f"{root}/run1/out", generate_spec(seed=1))  # what "run[1]" as a pattern would find
    commit_part(beside, 0, rollouts("other"))
    url = f"{root}/{name}/out"
    dataset = create_dataset(url, generate_spec())
    commit_part(dataset, 0, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    assert pending_parts(dataset).todo == (1,)
    commit_part(load_dataset(url), 1, rollouts("b"))
    finalize(load_dataset(url), max_reject_rate=1.0)
    complete = open_dataset(url)
    assert [complete.read_part(part)["group_id"][0].as_py() for part in range(2)] == ["a", "b"]
    assert complete.read_rejected(0).num_rows == 1
    assert [dataset.url for dataset in status(f"{root}/{name}").datasets] == [url]
    assert [finding for finding in verify(url) if finding.severity == "error"] == []
    again = create_dataset(url, generate_spec(seed=9), overwrite=True)
    assert pending_parts(again).todo == (0, 1)
    assert pending_parts(beside).todo == (1,)
