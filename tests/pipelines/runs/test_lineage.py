"""lineage.json is JSON: what JSON has no number for is refused by name, and what stands there stays."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipelines.runs.lineage import LineageError, read_rounds, record_round, record_start, record_stopped


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_has_not_is_refused_and_nothing_is_lost(tmp_path, value):
    run = str(tmp_path)
    record_round(run, 0, {"metrics": {"train": {"loss": 0.5}}})
    before = Path(run, "lineage.json").read_bytes()
    with pytest.raises(LineageError, match=rf"rounds\.1\.metrics\.train\.loss is {value}, which JSON has no number"):
        record_round(run, 1, {"metrics": {"train": {"loss": value}}})
    with pytest.raises(LineageError, match=r"start\.metrics\.eval\.math\.pass@1 is"):
        record_start(run, {"metrics": {"eval": {"math": {"pass@1": value}}}})
    with pytest.raises(LineageError, match=r"stopped\.value is"):
        record_stopped(run, {"value": value})
    assert Path(run, "lineage.json").read_bytes() == before
    assert read_rounds(run)[0]["metrics"] == {"train": {"loss": 0.5}}
