"""A part killed at 90 % asks the engine for no rollout that was finished, and has the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pass_ops import shards
from pass_ops.shards import Store, names
from pipelines.cli.parser import main

SCRIPT = Path(__file__).parent.parent / "parts" / "scripts" / "counted.py"
PROMPTS, GROUP = 10, 4
ROLLOUTS = PROMPTS * GROUP
KILLED_AT = 36  # 35 are finished by then
PROGRAM = """
async def twice(prompt, sample):
    await sample(max_tokens=5)
    sample.insert("...")
    await sample()
"""
ENGINES: dict[str, dict[str, Any]] = {
    "recorded": {"kind": "recorded", "recording": "synthetic:1"},
    # One row a batch: what else is in a batch would change logprobs by rounding.
    "transformers": {"kind": "transformers", "dtype": "float32", "device": "cpu", "extra": {"batch_size": 1}},
}


def told(folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, int]]:
    """What the script says of each case."""
    paths = os.pathsep.join([str(folder), str(Path.cwd())])
    environment = dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS="1")
    command = [sys.executable, str(SCRIPT), json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.rpartition("told ")[2]))


def data_files(url: str) -> list[str]:
    """Names of the data files; each holds the digest of its bytes."""
    return [record.data for record in shards.open_dataset(url).parts]


def journals(url: str) -> list[str]:
    return [entry.name for entry in Store(url).entries(names.JOURNAL)]


@pytest.fixture
def case(tmp_path: Path, tiny_model: str, write_sums: Callable[..., str]) -> dict[str, Any]:
    """One part of ten prompts."""
    (tmp_path / "own_twice.py").write_text(PROGRAM)
    return {
        "prompts": write_sums(PROMPTS, prompts_per_part=PROMPTS),
        "model": tiny_model,
        "engine": ENGINES["recorded"],
        "options": {"group_size": GROUP, "sampling": {"max_tokens": 12}},
        "kill_at": 0,
    }


@pytest.mark.parametrize(("engine", "calls"), [("recorded", 1), ("transformers", 1), ("recorded", 2)])
def test_a_part_killed_at_90_percent_repeats_only_what_was_in_flight(
    case: dict[str, Any], tmp_path: Path, engine: str, calls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    case["engine"] = ENGINES[engine]
    if calls == 2:
        case["options"]["program"] = "own_twice:twice"
    killed, whole, then = (str(tmp_path / name) for name in ("killed", "whole", "then"))
    undisturbed, first, again = told(
        tmp_path,
        [
            case | {"out": whole},
            case | {"out": killed, "kill_at": KILLED_AT, "copy": then},
            case | {"out": killed},
        ],
    )
    assert undisturbed == {"status": 0, "requests": calls * ROLLOUTS}
    assert first["status"] == -9
    assert again == {"status": 0, "requests": calls * (ROLLOUTS - KILLED_AT + 1)}
    assert data_files(killed) == data_files(whole)
    assert (len(journals(then)), journals(killed)) == (1, [])
    assert shards.verify(killed) == []
    assert [finding.code for finding in shards.verify(then)] == ["incomplete"]
    assert main(["status", then]) == 0
    capsys.readouterr()


def test_killed_again_and_again_every_rollout_is_finished_once(case: dict[str, Any], tmp_path: Path) -> None:
    out, whole = str(tmp_path / "out"), str(tmp_path / "whole")
    kills = [case | {"out": out, "kill_at": 11} for _ in range(2)]
    runs = told(tmp_path, [*kills, case | {"out": out}, case | {"out": whole}])
    assert [run["status"] for run in runs] == [-9, -9, 0, 0]
    assert [run["requests"] for run in runs] == [40, 30, 20, 40]
    assert data_files(out) == data_files(whole)
    assert journals(out) == []


def test_on_s3_a_killed_part_repeats_only_what_no_flush_had_kept(
    case: dict[str, Any], tmp_path: Path, bucket: str
) -> None:
    killed, whole = f"{bucket}/killed", str(tmp_path / "whole")
    case |= {"engine": ENGINES["transformers"], "flush_seconds": 0.0}
    (first,) = told(tmp_path, [case | {"out": killed, "kill_at": KILLED_AT}])
    assert first == {"status": -9, "requests": ROLLOUTS}
    segments = journals(killed)
    assert len(segments) > 1
    again, undisturbed = told(tmp_path, [case | {"out": killed}, case | {"out": whole}])
    assert (again["status"], undisturbed["status"]) == (0, 0)
    assert ROLLOUTS - KILLED_AT + 1 <= again["requests"] < ROLLOUTS
    assert data_files(killed) == data_files(whole)
    assert journals(killed) == []
    assert shards.verify(killed) == []
