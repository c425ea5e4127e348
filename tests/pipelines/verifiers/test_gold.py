"""The verifiers on public benchmark files, where these lie beside the repository (or in PASSRL_DATA)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("PASSRL_DATA", ROOT.parent / "shared" / "data"))

#: (file, row) of changed answers that are not marked wrong; docs/reference/verifiers.md says why
KNOWN = {("minerva", 132), ("minerva", 261)}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark files in {DATA}; set PASSRL_DATA to a folder of them")
def test_gold_answers_are_right_and_changed_ones_wrong() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "verifier_gold.py"), "--data", str(DATA)]
    results = [json.loads(line) for line in subprocess.check_output(script, text=True, cwd=ROOT).splitlines()]
    assert results
    for result in results:
        assert result["gold_right"] == result["gold"], result
        odd = {(result["file"], int(row)) for row in result["perturbed_exceptions"]}
        assert odd <= KNOWN, result
