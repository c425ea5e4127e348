"""Rounds on a node of two CPU "cards" (two engines, two gloo ranks), against one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.demo.assets import asset_folder
from pipelines.engines import release, use_gpus
from tests.processes import MARK, marked, wait_until

NODE = ["--set", 'runner.gpus=["cpu", "cpu"]']


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """What the processes of a test are found by; at its end none of the node's may be left."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums in one order, however many processes share the cores
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield str(tmp_path)
    torch.set_num_threads(threads)
    use_gpus(None)
    release()
    wait_until(lambda: not [p for p in marked(str(tmp_path)) if p.is_engine or p.is_rank or p.is_torchrun])


def lineage(out: str) -> list[dict[str, Any]]:
    return json.loads((Path(out) / "lineage.json").read_text())["rounds"]


def weights(out: str, round_index: int) -> dict[str, np.ndarray]:
    return load_file(f"{out}/round-{round_index:03d}/policy/model.safetensors")


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def test_two_rounds_of_two_children_and_two_ranks_are_those_of_one_process(project, capsys):
    here, there = project.out, project.out + "-node"
    assert main(["rounds", project.config, "--out", here]) == 0
    assert main(["rounds", project.config, "--out", there, *NODE]) == 0
    assert lineage(there)[0]["datasets"] == lineage(here)[0]["datasets"]
    assert lineage(there)[0]["metrics"]["eval"] == lineage(here)[0]["metrics"]["eval"]
    for index in range(2):
        assert largest_difference(weights(there, index), weights(here, index)) < 1e-6
    assert largest_difference(weights(there, 1), weights(there, 0)) > 1e-4, "the second round trains too"
    # The second round's rollouts name a policy of other last bits; what they say is the same.
    rows = [open_dataset(f"{out}/round-001/rollouts").read_part(0) for out in (here, there)]
    assert rows[0].equals(rows[1])
    steps = [Path(out, "round-001", "train", "metrics.jsonl").read_text().splitlines() for out in (here, there)]
    fed = [[json.loads(line)["rollouts"] for line in lines] for lines in steps]
    assert fed[0] == fed[1]
    capsys.readouterr()
    assert main(["verify", there]) == 0


MODELS = """
[prompts]
source = "prompts.jsonl"
prompts_per_part = 2
limit = 4

[policy]
model = {policy!r}

[engine]
kind = "transformers"
max_num_seqs = 4
extra = {{ batch_size = 1 }}

[generate]
group_size = 2

[generate.sampling]
max_tokens = 8

[signals.outcome]
signal = "outcome"
verifier = "number"
workers = 1

[signals.prm]
signal = "prm"
model = {prm!r}
separator = "\\n"
tag = "<extra_0>"
engine = {{ kind = "transformers", extra = {{ batch_size = 1 }} }}

[shape]
process = "prm"
outcome = "outcome"
weights = {{ format = 0.0 }}

[train]
updates = 1
lr = 1e-5
warmup_steps = 0
device = "cpu"

[eval]
samples = 2
k = [1]

[eval.benchmarks.small]
source = "prompts.jsonl"
limit = 2
"""

SPY = """
import os, sys
command = " ".join(sys.orig_argv)
def told(what):
    with open({events!r}, "a") as file:
        file.write(f"{{what}} {{os.getpid()}}\\n")
if "node_child" in command:
    from pipelines.engines.driver import DrivenEngine
    for name in ("sleep", "wake", "close"):
        def spy(self, *arguments, name=name, was=getattr(DrivenEngine, name)):
            was(self, *arguments)
            told(name + (" prm" if self._pools else " policy"))
        setattr(DrivenEngine, name, spy)
elif "RANK" in os.environ and "pipelines.runs.rank" in command:
    told("train -")
"""


def test_models_and_a_prm_take_turns_and_nothing_is_awake_while_the_ranks_train(project, tmp_path, monkeypatch):
    models = {"policy": str(asset_folder("policy")), "prm": str(asset_folder("prm"))}
    config = project.write("models.toml", MODELS.format(**models))
    here, there = project.out, project.out + "-node"
    assert main(["run", config, "--out", here]) == 0
    release()
    events = tmp_path / "events"
    (tmp_path / "sitecustomize.py").write_text(SPY.format(events=str(events)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert main(["run", config, "--out", there, *NODE]) == 0
    assert lineage(there)[0]["datasets"] == lineage(here)[0]["datasets"]
    assert largest_difference(weights(there, 0), weights(here, 0)) < 1e-6

    told = [tuple(line.split()) for line in events.read_text().splitlines()]
    steps = [(what, who) for what, who, _ in told]
    assert steps[:2] == [("sleep", "policy")] * 2, "before the PRM's engines start"
    assert steps[2:4] == [("close", "prm")] * 2, "before the ranks start"
    assert steps[4:6] == [("train", "-")] * 2
    assert steps[6:8] == [("wake", "policy")] * 2
    asleep, woken = ({pid for what, _, pid in told[:8] if what == name} for name in ("sleep", "wake"))
    assert asleep == woken, "the same two processes, kept over the stages"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["runner.gpus=[0]"], "names GPU 0, but this machine shows no GPU"),
        (["runner.gpus='all'"], "NVML shows no GPU"),
        (['runner.gpus=["cpu", "cpu", "cpu"]', "engine.kind=vllm", "engine.extra.tensor_parallel_size=2"], "1 over"),
        (['runner.gpus=["cpu", "cpu", "cpu"]', "engine.kind=vllm", "engine.extra.tensor_parallel_size=3"],
         "does not divide the model's 2 attention heads"),
        (['runner.gpus=["cpu", "cpu"]', "train.share_prompts=true"], "train.share_prompts is true"),
        (['runner.gpus=["cpu"]', "train.device=cuda"], "train.device is 'cuda'"),
        (['runner.gpus=["cpu"]', "engine.kind=transformers", "engine.device=cuda"], "engine.device is 'cuda'"),
    ],
)  # fmt: skip
def test_a_node_that_cannot_be_is_refused_before_anything_is_made(project, capsys, overrides, said):
    given = [word for override in overrides for word in ("--set", override)]
    assert main(["rounds", project.config, "--out", project.out, *given]) == 2
    assert said in capsys.readouterr().err
    assert not Path(project.out).exists()
