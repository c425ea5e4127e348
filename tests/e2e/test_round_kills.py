"""kill -9 at every boundary of rounds with every option: the same command goes on to the undisturbed bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.parser import main
from tests.e2e.killing import WITHOUT_VLLM, Point, finished, killed_at, passrl
from tests.e2e.node import Client

# min_delta 1 cannot be reached, so round 0 stays the best one and round 2 is the last of at most four.
OPTIONS = """
[select]
max_pass_rate = 0.5
explore = 0.25

[stop]
metric = "eval.small.pass@1"
patience = 2
min_delta = 1.0

[schedule]
train.lr = { rule = "linear", start = 1e-3, end = 1e-4, rounds = 3 }
shape.k = [0.7, 0.3]
"""
RUN = "[run]\nprompts_per_round = 4\nmax_staleness = 1\nkeep_rollouts = 2\nkeep_states = 1"

TRAIN = '[train]\noff_policy = "accept"\nsave_every = 1\nkeep_checkpoints = 1'
STATE = r"/round-00{}/train/state/step-0000000{}"

# In the order in which a run comes to them. A checkpoint is files, then a marker, then the removal of the one before.
KILLS = (
    Point(pattern=r"^create .*/round-000/signals/outcome/part-"),
    Point(pattern=r"^create .*/round-000/signals/steps/_done/", count=2),
    Point(pattern=r"^put .*/round-000/pass_rates\.json"),
    Point(pattern=rf"^rename .*{STATE.format(0, 1)}/\.metadata"),
    Point(pattern=rf"^put:rename .*{STATE.format(0, 2)}\.json"),
    Point(pattern=r"^put .*/round-001/selection\.json"),
    Point(pattern=r"^create .*/round-001/rollouts/_done/"),
    Point(pattern=r"^create .*/round-001/signals/format/_manifest-"),
    Point(pattern=rf"^unlink .*{STATE.format(1, 1)}\.json"),
    Point(pattern=r"^put .*/round-001/train/_done\.json"),
    Point(pattern=rf"^put:rename .*{STATE.format(0, 2)}\.json"),
    Point(pattern=rf"^rmtree .*{STATE.format(0, 2)}$"),
    Point(pattern=rf"^rmtree .*{STATE.format(2, 1)}$", count=2),
    Point(pattern=r"^put:rename .*/round-000/shaped/_deleted-"),
    Point(pattern=r"^remove .*/round-000/shaped/part-", count=2),
    Point(pattern=r"^put .*/round-000/signals/format/_deleted-"),
    Point(pattern=r"^remove .*/round-000/rollouts/part-"),
    Point(pattern=r"^create .*/round-002/eval/small/rollouts/_manifest-"),
)


@pytest.fixture
def every_option(project):
    text = Path(project.config).read_text().replace("[run]", RUN).replace("[eval]", "[eval]\nbetween = 2")
    text = text.replace("prompts_per_part = 4", "prompts_per_part = 2")  # two parts a round
    project.write("run.toml", text.replace("[train]", TRAIN) + OPTIONS)
    return project


def made_by(out: str) -> dict[str, Any]:
    """What must be the same however often a run was cut off: the lineage without times, and every policy's bytes."""
    lineage = json.loads((Path(out) / "lineage.json").read_text())
    keys = ("datasets", "schedule", "trained_on", "selection", "deleted")
    rounds = [{key: entry.get(key) for key in keys} | {"eval": entry["metrics"]["eval"]} for entry in lineage["rounds"]]
    policies = [path.read_bytes() for path in sorted(Path(out).glob("round-*/policy/model.safetensors"))]
    chosen = [path.read_bytes() for path in sorted(Path(out).glob("round-*/*.json"))]
    return {"rounds": rounds, "stopped": lineage.get("stopped"), "policies": policies, "chosen": chosen}


@pytest.mark.deep
def test_killed_at_every_boundary_the_rounds_are_those_of_an_undisturbed_run(every_option, tmp_path, capsys):
    out, cut = every_option.out, str(tmp_path / "cut")
    command = ["rounds", every_option.config, "--rounds", "4", "--out"]
    passrl(["--version"], out + ".log", preload=WITHOUT_VLLM).join()
    assert finished([*command, out], out + ".log") == 0, Path(out + ".log").read_text()
    undisturbed = made_by(out)
    assert undisturbed["stopped"]["round"] == 2
    assert undisturbed["rounds"][0]["deleted"].keys() >= {"rollouts", "shaped", "state"}
    for point in KILLS:
        killed_at(point, [*command, cut], cut + ".log")
    assert finished([*command, cut], cut + ".log") == 0, Path(cut + ".log").read_text()
    assert made_by(cut) == undisturbed
    assert main(["verify", cut]) == 0, capsys.readouterr().out


# Of the client of a node. Its ranks write states and policies, its engines answer it.
NODE_KILLS = (
    Point(pattern=r"^create .*/round-000/signals/steps/_done/", count=2),
    Point(pattern=r"^create .*/round-001/rollouts/_done/"),
    Point(pattern=rf"^put:rename .*{STATE.format(0, 2)}\.json"),
    Point(pattern=rf"^rmtree .*{STATE.format(0, 2)}$"),
    Point(pattern=r"^remove .*/round-000/shaped/part-", count=2),
)
# Two rounds are enough for all of it where nothing of round 0 is needed after round 1.
ON_A_NODE = ("--rounds", "2", "--set", "run.max_staleness=0", "--set", "run.keep_rollouts=1")
# Rank 0 kills itself in round 1, between the files of its second state and their marker, once.
WITHIN_A_COMMIT = """
import os, signal, sys
if os.environ.get("RANK") == "0" and "pipelines.runs.rank" in " ".join(sys.orig_argv):
    import trainer.checkpoint as checkpoint
    write = checkpoint.write_json
    def written(path, content):
        if "round-001" in str(path) and path.name == "step-00000002.json" and not os.path.exists({once!r}):
            open({once!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)
    checkpoint.write_json = written
"""


@pytest.mark.deep
def test_rounds_on_a_node_killed_at_every_boundary_are_those_of_an_undisturbed_node(every_option, tmp_path, capsys):
    out, cut, mark, once = every_option.out, str(tmp_path / "cut"), str(tmp_path), tmp_path / "killed"
    (tmp_path / "sitecustomize.py").write_text(WITHIN_A_COMMIT.format(once=str(once)))
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    Client(every_option, out, mark, ON_A_NODE, command="rounds").finish()
    assert made_by(out)["rounds"][0]["deleted"].keys() >= {"rollouts", "shaped", "state"}
    for point in NODE_KILLS:
        client = Client(every_option, cut, mark, ON_A_NODE, command="rounds", point=point, PYTHONPATH=path)
        client.killed()
    client = Client(every_option, cut, mark, ON_A_NODE, command="rounds", PYTHONPATH=path)
    client.finish()
    client.everything_ended()
    assert once.exists(), "rank 0 came to its point, and was started again"
    assert made_by(cut) == made_by(out)
    assert main(["verify", cut]) == 0, capsys.readouterr().out
