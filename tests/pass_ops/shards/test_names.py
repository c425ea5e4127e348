"""File names of a dataset say which part and which fingerprint they are of."""

from __future__ import annotations

import pytest

from pass_ops.shards import names

FP8 = "0123abcd"


@pytest.mark.parametrize(
    ("name", "part", "number"),
    [
        (names.data(3, FP8, "f" * 64), 3, 0),
        (names.done(1_000_000, FP8), 1_000_000, 0),
        (names.rejected(3, FP8, "f" * 64), 3, 0),
        (names.attempt(3, FP8, 12), 3, 12),
        (names.failed(3, FP8), 3, 0),
        (names.journal(3, FP8, "0123456789ab", 7), 3, 0),
    ],
)
def test_a_name_gives_back_its_part(name, part, number):
    folder, _, base = name.rpartition("/")
    assert names.parse(folder, base) == names.PartName(part, FP8, number)
    assert names.fingerprint_of(folder, base) == FP8
    assert names.fingerprint_of(folder, f".{base}.0123456789ab.tmp") == FP8  # left by a killed writer
    assert names.parse(folder, f".{base}.0123456789ab.tmp") is None


def test_the_records_of_a_dataset_have_a_fingerprint_only_at_its_top():
    for name in (names.parts(FP8, 1), names.parts(FP8, 2), names.manifest(FP8)):
        assert names.fingerprint_of("", name) == FP8
        assert names.fingerprint_of(names.DONE, name) is None
    assert names.fingerprint_of("", "notes.txt") is None
