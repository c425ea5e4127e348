"""A verifier that loops for ever, allocates 10 GB, segfaults: each costs its own row, on each runner."""

from __future__ import annotations

from pathlib import Path

import pytest

from pass_ops import shards
from pipelines.parts.operations import Operations
from pipelines.runners import RunnerOptions
from pipelines.signals import build_signal
from pipelines.signals.stage import score
from tests.cluster.conftest import ROOT, need

VERIFIER = """
import ctypes

def verify(text, answer):
    if text == "9": exec("while True: pass")
    if text == "1\\n\\n=x": return len(bytearray(10 << 30)) > 0
    if text == "4\\n=4": ctypes.string_at(0)
    return text.endswith("=" + answer)
"""

RUNNERS = {
    "direct": RunnerOptions(),
    "threads": RunnerOptions(flags=("--direct_running_mode=multi_threading", "--direct_num_workers=2")),
    "processes": RunnerOptions(flags=("--direct_running_mode=multi_processing", "--direct_num_workers=2")),
    "prism": RunnerOptions(name="prism", flags=(f"--prism_location={ROOT / '.cache/prism/prism'}",)),
}


@pytest.mark.parametrize("runner", ["direct", "threads", "processes", pytest.param("prism", marks=pytest.mark.cluster)])
def test_each_fault_loses_one_rows_reward(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str) -> None:
    if runner == "prism":
        need("go", target="prism")
    (tmp_path / "faulty_verifier.py").write_text(VERIFIER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for workers of their own
    signal = build_signal("outcome", {"verifier": "faulty_verifier:verify", "timeout_s": 2.0, "workers": 1})
    operations = Operations(runner=RUNNERS[runner])
    score(signal=signal, rollouts=run.rollouts, out=run.signal("right"), operations=operations)

    dataset = shards.open_dataset(run.signal("right"))
    rows = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]
    assert [(row["status"], row["outcome_reward"]) for row in rows] == [
        ("ok", 1.0), ("ok", 0.0), ("ok", 1.0), ("error", None), ("timeout", None),
        ("ok", 1.0), ("ok", 0.0), ("ok", 1.0), ("error", None),
    ]  # fmt: skip
    details = [row["detail"] for row in rows if row["status"] != "ok"]
    assert details == ["MemoryError: ", "no result within 2 s", "it ended the process that called it (SIGSEGV)"]
