"""kill -9 on a node: its engines, ranks, torchrun and client. What comes of it is what an undisturbed run makes.

Ten kills of engines in a row are in tests/pipelines/engines/test_node.py; here are seven more, of every process, ten
with `-m deep`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from tests.e2e.node import Client, Kind
from tests.e2e.project import Project, make_project
from tests.e2e.test_kills import made_by
from tests.processes import marked

# Answers take a moment, so that engines have requests open when they are killed.
MORE = ("--set", "engine.extra.latency=1.5", "--set", "train.updates=3")
# In rank 0's process: SIGKILL when it has told of the second step, once; a checkpoint of it is not there yet. It waits
# for the test's own kills before, however late those are: deaths with a step between them are not counted together.
MIDWAY = """
import os, signal, sys, time
if os.environ.get("RANK") == "0" and "pipelines.runs.rank" in " ".join(sys.orig_argv):
    import pipelines.runs.rank as rank
    tell = rank.tell
    def told(client, what, value):
        dies = what == "progress" and value[0] == 2 and not os.path.exists({once!r})
        while dies and not os.path.exists({struck!r}):
            time.sleep(0.02)
        tell(client, what, value)
        if dies:
            open({once!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    rank.tell = told
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model) -> Project:
    return make_project(tmp_path_factory.mktemp("node"), tiny_model)


@pytest.fixture(scope="module")
def undisturbed(project, tmp_path_factory) -> dict[str, object]:
    mark = str(tmp_path_factory.mktemp("mark"))
    client = Client(project, project.out, mark, MORE)
    client.finish()
    client.everything_ended()
    return made_by(project.out)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path)
    for process in marked(str(tmp_path)):  # of a test that failed
        with contextlib.suppress(ProcessLookupError):  # it ended with another
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.timeout(1200)
def test_engines_ranks_and_torchrun_are_killed_and_the_command_goes_on(project, undisturbed, mark, tmp_path, capsys):
    chances = random.Random(15)
    once, struck = tmp_path / "killed", tmp_path / "struck"
    (tmp_path / "sitecustomize.py").write_text(MIDWAY.format(once=str(once), struck=str(struck)))
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    client = Client(project, str(tmp_path / "run"), mark, MORE, PYTHONPATH=path)
    killed = [client.kill_one(lambda p: p.is_engine, chances, after=4.0) for _ in range(2)]
    client.reach(lambda: client.its(lambda p: p.is_rank))
    first = {process.pid for process in client.its(lambda p: p.is_torchrun)}
    killed += [client.kill_one(lambda p: p.is_rank, chances, after=2.0)]
    killed += [client.kill_one(lambda p: p.is_torchrun and p.pid not in first, chances, after=2.0)]
    struck.touch()
    client.finish()
    assert all(killed), client.log.read_text()
    assert once.exists(), client.log.read_text()
    client.everything_ended()
    assert made_by(client.out) == undisturbed
    assert main(["verify", client.out]) == 0, capsys.readouterr().out


@pytest.mark.timeout(1800)  # every kill starts two engines and two ranks again
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.deep)])
def test_a_client_killed_several_times_leaves_nothing_running_and_completes_at_last(
    project, undisturbed, mark, tmp_path, capsys, kills
):
    chances = random.Random(16)
    kinds: list[Kind] = [lambda p: p.is_engine, lambda p: p.is_rank]
    for number in range(kills):
        client = Client(project, str(tmp_path / "run"), mark, MORE)
        client.reach(partial(client.its, kinds[number % 2]))
        time.sleep(chances.uniform(0, 3))
        client.kill()
        client.everything_ended()
    client = Client(project, str(tmp_path / "run"), mark, MORE)
    client.finish()
    client.everything_ended()
    assert made_by(client.out) == undisturbed
    assert main(["verify", client.out]) == 0, capsys.readouterr().out
