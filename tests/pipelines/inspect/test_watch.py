"""`passrl top` follows a run that is being written, from its store alone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid

import pyarrow as pa
import pytest
from rich.console import Console

from pass_ops import shards
from pass_ops.errors import NotADatasetError
from pass_ops.shards.tables import Rejection
from pipelines.cli import main
from pipelines.inspect.views.status import status_sheet
from pipelines.inspect.watch import follow, snapshot, snapshot_view

ROW = {
    "sample_index": 0, "prompt_token_ids": [1], "token_ids": [1, 2], "text": "ab", "behavior_logprobs": [-1.0, -2.0],
    "loss_mask": [True, True], "finish_reason": "stop", "seed": 1, "answer": "1",
}  # fmt: skip


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path) -> str:
    """The URL of a run, where nothing is yet."""
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def begin(run: str, *, parts: int, number: int = 0) -> shards.Dataset:
    carried = {"sampling": {"group_size": 1, "temperature": 1.0}, "round": number, "policy_digest": "d"}
    spec = shards.DatasetSpec(stage="generate", stage_version=1, options={}, parts=parts, carried=carried)
    return shards.create_dataset(f"{run}/round-{number:03d}/rollouts", spec)


def commit(dataset: shards.Dataset, part: int, *reasons: str) -> None:
    rejected = [Rejection(prompt_id=f"{part}-{i}", reason=reason) for i, reason in enumerate(reasons)]
    row = ROW | {"group_id": f"g{part}", "rollout_id": f"g{part}/0"}
    shards.commit_part(dataset, part, pa.Table.from_pylist([row], schema=shards.ROLLOUTS), rejected=rejected)


def screen(run: str) -> str:
    with open(os.devnull, "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(snapshot_view(snapshot(run)))
        return console.export_text()


def test_the_screen_follows_parts_rejections_and_steps(run):
    with pytest.raises(NotADatasetError):
        snapshot(run)
    dataset = begin(run, parts=3)
    assert "0/3" in screen(run)
    commit(dataset, 0, "too_long", "too_long")
    commit(dataset, 1, "too_long", "empty")
    assert snapshot(run).datasets[0].rejected == {"too_long": 3, "empty": 1}
    assert "2/3" in screen(run)
    assert "1 empty, 3 too_long" in screen(run)
    assert snapshot(run).training is None
    lines = [json.dumps({"update": number, "loss": number / 4}) for number in (1, 2)]
    metrics = "\n".join([*lines, '{"update": 3, "lo']).encode()  # being written
    shards.Store(f"{run}/round-000/train").put("metrics.jsonl", metrics)
    assert snapshot(run).training.metrics == {"update": 2, "loss": 0.5}
    assert "round-000/train: update 2, loss 0.5" in screen(run)
    commit(dataset, 2)
    shards.finalize(dataset, max_reject_rate=1.0)
    assert snapshot(run).datasets[0].rejected == {"too_long": 3, "empty": 1}


def test_many_complete_datasets_are_one_line(run):
    for number in range(12):
        commit(dataset := begin(run, parts=1, number=number), 0)
        shards.finalize(dataset)
    begin(run, parts=5, number=12)
    shown = screen(run)
    assert "4 more datasets are complete" in shown
    assert "round-000" not in shown
    assert "round-012/rollouts" in shown


def test_after_a_thousand_rounds_the_last_one_is_still_the_last(run):
    for number in (101, 999, 1000):
        commit(dataset := begin(run, parts=1, number=number), 0)
        shards.finalize(dataset)
        content = json.dumps({"update": number, "loss": 0.5}).encode() + b"\n"
        shards.Store(f"{run}/round-{number}/train").put("metrics.jsonl", content)
    found = snapshot(run)
    assert [dataset.url.split("/")[-2] for dataset in found.datasets] == ["round-101", "round-999", "round-1000"]
    assert found.training.folder == "round-1000/train"
    shown = status_sheet(shards.RunStatus(url=run, datasets=found.datasets[::-1])).plain(width=100)
    assert shown.index("round-101") < shown.index("round-999") < shown.index("round-1000")


def test_what_cannot_be_read_is_said_and_looked_at_again(tmp_path, monkeypatch):
    looks = []

    def look(url):
        looks.append(url)
        if len(looks) == 1:
            raise NotADatasetError("nothing there yet")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.inspect.watch.time.sleep", lambda seconds: None)
    with open(tmp_path / "screen", "w") as file, pytest.raises(KeyboardInterrupt):
        follow("run", console=Console(file=file, force_terminal=True), every=1.0, look=look)
    assert "nothing there yet" in (tmp_path / "screen").read_text()
    assert looks == ["run", "run"]


def test_elsewhere_than_on_a_terminal_it_prints_once(tmp_path, capsys):
    commit(begin(str(tmp_path), parts=2), 0)
    assert main(["top", str(tmp_path)]) == 0
    assert "1/2" in capsys.readouterr().out


def test_ctrl_c_on_a_terminal_ends_it_with_130(tmp_path):
    dataset = begin(str(tmp_path), parts=2)
    here, there = pty.openpty()
    command = [sys.executable, "-m", "pipelines.cli.parser", "top", str(tmp_path), "--every", "0.1"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdout=there, stderr=there, env=environment) as top:
        os.close(there)
        shown, until = b"", time.monotonic() + 120
        for part, wanted in enumerate((b"0/2", b"1/2")):
            while wanted not in shown and time.monotonic() < until:
                shown += read(here)
            assert wanted in shown
            commit(dataset, part)
        top.send_signal(signal.SIGINT)
        while top.poll() is None and time.monotonic() < until:  # its last words need room
            read(here)
        assert top.returncode == 130
    os.close(here)


def read(terminal: int) -> bytes:
    """What it shows, within a second; nothing once the program has left it."""
    with contextlib.suppress(OSError):
        if select.select([terminal], [], [], 1.0)[0]:
            return os.read(terminal, 65536)
    return b""
