"""What of images and manifests can be checked without a container engine or a Kubernetes cluster."""

from __future__ import annotations

import copy
import re
import subprocess
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cluster.conftest import need

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "deploy" / "images" / "worker.Dockerfile"
LAUNCHER = ROOT / "deploy" / "dataflow" / "launcher.Dockerfile"
FLINK = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "flink.yaml").read_text()))
# Kind of object -> its definition inside this artifact.
OPERATOR = "org.apache.flink:flink-kubernetes-operator-api:1.10.0"
DEFINITION = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"


def pinned(package: str, name: str = "cpu") -> str:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return next(line.split(" ")[0].partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def instructions(file: Path, name: str) -> list[str]:
    return [line.partition(" ")[2] for line in file.read_text().splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("file", [WORKER, LAUNCHER], ids=lambda file: file.name)
def test_everything_that_is_copied_is_there(file):
    for copied in instructions(file, "COPY"):
        *sources, _ = copied.split()
        if sources[0].startswith("--from="):
            continue
        for source in sources:
            for name in ("cpu", "gpu", "gcp", "gpu-gcp"):
                assert (ROOT / source.replace("${LIST}", name)).exists(), f"{file.name}: {source}"


def test_the_boot_program_is_the_pinned_sdks_and_python_the_images_own():
    sdk, python = instructions(WORKER, "FROM")
    assert re.fullmatch(rf"apache/beam_python3\.11_sdk:{re.escape(pinned('apache-beam'))} AS beam", sdk)
    assert python == "python:${PYTHON}-slim"
    assert instructions(WORKER, "ARG")[0] == "PYTHON=3.11"
    assert instructions(WORKER, "ENTRYPOINT") == ['["/opt/apache/beam/boot"]']


def test_the_launcher_starts_the_template_program_with_our_launcher():
    assert instructions(LAUNCHER, "ENTRYPOINT") == ['["/opt/google/dataflow/python_template_launcher"]']
    assert instructions(LAUNCHER, "ENV") == ["FLEX_TEMPLATE_PYTHON_PY_FILE=/passrl/launch.py"]


def test_job_server_and_flink_are_a_pair_of_the_pinned_sdk():
    deployment = next(item for item in FLINK if item["kind"] == "FlinkDeployment")["spec"]
    server = next(item for item in FLINK if item["kind"] == "Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    flink = deployment["flinkVersion"].removeprefix("v").replace("_", ".")
    assert deployment["image"] == f"flink:{flink}"
    assert container["image"] == f"apache/beam_flink{flink}_job_server:{pinned('apache-beam')}"


def test_the_manifests_restarts_are_those_of_the_local_cluster():
    deployment = next(item for item in FLINK if item["kind"] == "FlinkDeployment")["spec"]
    local = dict(
        line.split(": ", 1)
        for line in (ROOT / "deploy/flink/flink-conf.yaml").read_text().splitlines()
        if line.startswith("restart-strategy")
    )
    manifest = {key: value for key, value in deployment["flinkConfiguration"].items() if "restart" in key}
    assert manifest.items() <= local.items()


def test_the_worker_pool_beside_a_task_manager_has_the_gpu():
    pod = next(item for item in FLINK if item["kind"] == "FlinkDeployment")["spec"]["taskManager"]["podTemplate"]
    pool = next(item for item in pod["spec"]["containers"] if item["name"] == "worker-pool")
    assert pool["command"] == ["passrl-worker-pool", "--port=50000"]
    assert pool["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.deep
def test_the_manifest_fits_the_operators_own_definition(tmp_path):
    need("java", "mvn", target="flink")
    fetched = subprocess.run(
        ["mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.7.1:copy", f"-Dartifact={OPERATOR}",
         f"-DoutputDirectory={tmp_path}"], capture_output=True, check=False)  # fmt: skip
    if fetched.returncode != 0:
        pytest.skip(f"{OPERATOR} cannot be fetched here")
    (jar,) = tmp_path.glob("*.jar")
    definition = yaml.safe_load(zipfile.ZipFile(jar).read(DEFINITION))
    (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1beta1"]
    schema = _closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    spec = copy.deepcopy(next(item for item in FLINK if item["kind"] == "FlinkDeployment")["spec"])
    jsonschema.validate(spec, schema)
    spec["taskManager"]["replica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(spec, schema)


def _closed(schema: dict) -> dict:
    """The schema with unknown keys refused wherever it lists the known ones: a misspelt one then shows."""
    closed = {key: _closed(value) if isinstance(value, dict) else value for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not free:
        closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
