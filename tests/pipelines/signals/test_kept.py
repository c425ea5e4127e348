"""A part of a signal killed at 90 % asks for nothing that was answered, and has the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pass_ops import shards
from pass_ops.shards import Store, names
from pipelines.engines import RequestRejected
from pipelines.signals import build_signal
from pipelines.signals.kept import FLOAT32, Answers, request_name

SCRIPT = Path(__file__).parent.parent / "parts" / "scripts" / "counted.py"
REQUESTS = 19  # of a signal that asks once a rollout
# Answers come when all is asked, so that the number of those that are in flight at the kill is known.
RECORDED = {"kind": "recorded", "recording": "synthetic:1", "extra": {"latency": 0.3}}
SIGNALS: dict[str, dict[str, Any]] = {
    # Digits are common in made-up replies, but not in all: some steps are asked about again.
    "judge": {"signal": "judge", "model": "MODEL", "engine": RECORDED, "template": "{prompt}{step}{number}",
              "separator": "\n", "answer": "([0-9])", "sampling": {"max_tokens": 4}},
    "monte_carlo": {"signal": "monte_carlo", "verifier": "number", "workers": 1, "samples": 2, "separator": "\n",
                    "engine": RECORDED},
    "prm": {"signal": "prm", "model": "MODEL", "engine": RECORDED, "tag": ":", "separator": "\n"},
    "logprobs": {"signal": "logprobs", "engine": RECORDED},
}  # fmt: skip


def data_files(url: str) -> list[str]:
    """Names of the data files; each holds the digest of its bytes."""
    return [record.data for record in shards.open_dataset(url).parts]


def journals(url: str) -> list[str]:
    return [entry.name for entry in Store(url).entries(names.JOURNAL)]


@pytest.fixture
def stored(make_run: Callable[..., Any]) -> dict[str, Any]:
    """One part of twenty rollouts, nineteen of them of three steps: what every case scores."""
    texts = {0: {group: [f"{group[1]}\n+{i}\n={i}$" for i in range(10)] for group in ("p0", "p1")}}
    texts[0]["p0"][4] = ""
    run = make_run(texts=texts)
    return {"prompts": run.prompts, "rollouts": run.rollouts, "model": run.model, "kill_at": 0}


def told(cases: list[dict[str, Any]]) -> list[dict[str, int]]:
    """What the script says of each case."""
    environment = dict(os.environ, PYTHONPATH=str(Path.cwd()), OMP_NUM_THREADS="1")
    command = [sys.executable, str(SCRIPT), json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.rpartition("told ")[2]))


def test_a_signal_killed_at_90_percent_repeats_only_what_was_in_flight(stored: dict[str, Any], tmp_path: Path) -> None:
    outs = {name: [str(tmp_path / f"{name}-{which}") for which in ("whole", "killed", "then")] for name in SIGNALS}
    cases = []
    for name, (whole, killed, then) in outs.items():
        table = json.loads(json.dumps(SIGNALS[name]).replace("MODEL", stored["model"]))
        case = stored | {"signal": table}
        cases += [case | {"out": whole}, case | {"out": killed, "kill_at": 0.9, "copy": then}, case | {"out": killed}]
    found = iter(told(cases))
    for name, (whole, killed, then) in outs.items():
        undisturbed, first, again = next(found), next(found), next(found)
        requests = undisturbed["requests"]
        assert (undisturbed["status"], first["status"], again["status"]) == (0, -9, 0), name
        assert requests >= REQUESTS
        assert again["requests"] == requests - round(0.9 * requests) + 1, name
        assert data_files(killed) == data_files(whole), name
        assert (len(journals(then)), journals(killed), journals(whole)) == (1, [], []), name
        assert [found.code for found in shards.verify(killed)] == ["input_absent"], name  # the fixture's prompts' file


def test_a_damaged_journal_costs_what_it_lost_and_none_costs_everything(stored: dict[str, Any], tmp_path: Path) -> None:
    damaged, without, whole = (str(tmp_path / name) for name in ("damaged", "without", "whole"))
    case = stored | {"signal": SIGNALS["logprobs"]}
    on, off = case | {"out": damaged}, case | {"out": without, "journal": False}
    runs = told([case | {"out": whole}, off | {"kill_at": 0.9}, off, on | {"kill_at": 0.9}, on | {"damage": True}])
    assert [run["status"] for run in runs] == [0, -9, 0, -9, 0]
    assert runs[2]["requests"] == REQUESTS
    assert REQUESTS - 16 < runs[4]["requests"] < REQUESTS  # 16 were answered
    assert data_files(damaged) == data_files(without) == data_files(whole)
    assert journals(damaged) == journals(without) == []


def test_what_was_refused_is_asked_again() -> None:
    def submit(answer: Any) -> Callable[[], Future[Any]]:
        future: Future[Any] = Future()
        (future.set_exception if isinstance(answer, Exception) else future.set_result)(answer)
        return lambda: future

    content: dict[str, bytes] = {}
    journal: Any = SimpleNamespace(read=lambda: dict(content), add=content.__setitem__)
    first, refused, second = Answers(journal), request_name([1, 2], "a"), request_name([1, 2], "b")
    with pytest.raises(RequestRejected):
        first.ask(refused, submit(RequestRejected("aborted")), FLOAT32).result()
    first.ask(second, submit(np.array([0.1, -0.0], np.float32)), FLOAT32).result()
    later = Answers(journal)
    assert later.ask(refused, submit(np.array([7.0], np.float32)), FLOAT32).result().tolist() == [7.0]
    kept = later.ask(second, submit(RuntimeError("asked again")), FLOAT32).result()
    assert kept.tobytes() == np.array([0.1, -0.0], np.float32).tobytes()


def test_a_signal_for_one_attempt_is_the_signal_and_leaves_it_as_it_was(tokenizer_folder: str) -> None:
    signal: Any = build_signal("judge", {"model": "m", "url": "http://127.0.0.1:1/v1"})
    signal.setup(tokenizer_folder)
    answers = Answers()
    one = signal.asking(answers)
    assert one == signal
    assert one._tokenizer_folder == tokenizer_folder
    assert one._answers is answers
    assert signal._answers is not answers
