"""lineage.json is JSON: what JSON has no number for is refused by name, and what stands there stays."""

from __future__ import annotations

import json
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


def test_infinite_options_of_an_earlier_version_do_not_stop_a_run(tmp_path):
    """It wrote them as `Infinity`, which is no JSON; a round more writes them as TOML does."""
    options = {"config": {"train": {"stop_ratio": math.inf}}, "schedule": {"train.stop_ratio": math.inf}}
    entry = {"round": 1, **options}
    Path(tmp_path, "lineage.json").write_text(json.dumps({"format_version": 1, "rounds": [entry]}))
    record_round(str(tmp_path), 2, options)
    record_stopped(str(tmp_path), {"value": 0.5})
    for found in (read_rounds(str(tmp_path))[index] for index in (1, 2)):
        assert found["config"] == {"train": {"stop_ratio": "inf"}}
        assert found["schedule"] == {"train.stop_ratio": "inf"}
