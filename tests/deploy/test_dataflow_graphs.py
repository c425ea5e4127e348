"""Dataflow job graphs, built offline: hints, container, and that no payload is in graph or shuffle.

Google's client libraries are no part of the test environment: a folder of them is made once, in .cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from tests.e2e.project import make_project

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / ".cache" / "gcp"
RESOURCES = '\n[runner.resources]\naccelerator = "type:nvidia-l4;count:1;install-nvidia-driver"\nmin_ram = "24GB"\n'
ACCELERATOR = "beam:resources:accelerator:v1"
MODEL_STAGES = ("generate", "score-model")

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def google() -> str:
    """The packages that requirements/gcp.txt has beyond cpu.txt, in a folder for PYTHONPATH."""
    if not (OVERLAY / "apitools").exists():
        pinned = [set((ROOT / f"requirements/{name}.txt").read_text().splitlines()) for name in ("gcp", "cpu")]
        listed = OVERLAY.parent / "gcp.txt"
        OVERLAY.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(sorted(pinned[0] - pinned[1])))
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", sys.executable]
        made = subprocess.run([*uv, "--no-deps", "--target", str(OVERLAY), "-r", str(listed)], check=False)
        if made.returncode != 0:
            pytest.skip("Google's client libraries cannot be installed here")
    return str(OVERLAY)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, tiny_model, google):
    """Stage -> its graph, each over inputs that the direct runner made."""
    from apache_beam.portability.api import beam_runner_api_pb2

    folder = tmp_path_factory.mktemp("graphs")
    project = make_project(folder, tiny_model)
    config = Path(project.config)
    signal = '\n[signals.teacher]\nsignal = "logprobs"\nmodel = "model"\n[signals.teacher.engine]\nkind = "recorded"\n'
    config.write_text(config.read_text() + signal + RESOURCES)
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out]) == 0
    made = {}
    for stage, arguments in {
        "generate": ["generate"],
        "shape": ["shape", "--name", "other"],
        "score-model": ["score", "--signal", "teacher"],
        "score-function": ["score", "--signal", "outcome"],
    }.items():
        command = [arguments[0], project.config, "--out", project.out, *arguments[1:], "--set", "shape.k=0.25"]
        if stage == "generate":
            command[3] = project.out + "-generate"
        if stage.startswith("score"):
            dataset = Path(project.out, "round-000/signals", arguments[-1])
            dataset.rename(dataset.with_name(f"{dataset.name}-before"))
        file = folder / f"{stage}.pb"
        script = [sys.executable, str(ROOT / "tests/deploy/dataflow_graph.py"), str(file), *command]
        environment = os.environ | {"PYTHONPATH": f"{google}:{ROOT}"}
        told = subprocess.run(script, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert file.exists(), told.stdout + told.stderr
        assert "parts are not done" in told.stderr  # dry run: the job was built, nothing ran
        made[stage] = beam_runner_api_pb2.Pipeline.FromString(file.read_bytes())
    return made


def steps(graph):
    """Leaf transforms: name -> resource hints of its environment."""
    components = graph.components
    return {
        transform.unique_name: dict(components.environments[transform.environment_id].resource_hints)
        for transform in components.transforms.values()
        if not transform.subtransforms and transform.environment_id
    }


@pytest.mark.parametrize("stage", ["generate", "score-model", "score-function", "shape"])
def test_the_gpu_is_asked_for_by_the_step_that_runs_a_model_alone(graphs, stage):
    asking = {name for name, hints in steps(graphs[stage]).items() if ACCELERATOR in hints}
    assert asking == ({stage.split("-")[0]} if stage in MODEL_STAGES else set())


def test_the_hint_says_what_the_configuration_says(graphs):
    hints = steps(graphs["generate"])["generate"]
    assert hints[ACCELERATOR] == b"type:nvidia-l4;count:1;install-nvidia-driver"
    assert hints["beam:resources:min_ram_bytes:v1"] == b"24000000000"


@pytest.mark.parametrize("stage", ["generate", "score-model", "score-function", "shape"])
def test_every_worker_runs_the_custom_container(graphs, stage):
    environments = graphs[stage].components.environments.values()
    assert {env.urn for env in environments} == {"beam:env:docker:v1"}
    assert all(b"registry/passrl:1" in env.payload for env in environments)


@pytest.mark.parametrize("stage", ["generate", "score-model", "score-function", "shape"])
def test_neither_graph_nor_shuffle_holds_a_payload(graphs, stage):
    graph = graphs[stage]
    assert b"3b-2?" not in graph.SerializeToString()  # of every prompt
    coders = graph.components.coders
    shuffled = {
        value
        for transform in graph.components.transforms.values()
        if transform.spec.urn == "beam:transform:group_by_key:v1"
        for pcollection in transform.inputs.values()
        for value in _leaves(coders, graph.components.pcollections[pcollection].coder_id)
    }
    assert shuffled
    assert not {urn for urn in shuffled if "bytes" in urn or "string" in urn or "row" in urn}


def _leaves(coders, coder_id):
    coder = coders[coder_id]
    if not coder.component_coder_ids:
        return {coder.spec.urn}
    return set().union(*(_leaves(coders, inner) for inner in coder.component_coder_ids))
