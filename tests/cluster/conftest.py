"""A real Flink cluster on this machine, one a session, and projects that run on it.

Without Java or Maven these tests are skipped with a message; with PASSRL_REQUIRE_CLUSTER set (CI) that is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.flink.cluster import LocalCluster
from tests.cluster.jobs import ClusterProject

ROOT = Path(__file__).resolve().parents[2]


def need(*programs: str, target: str) -> None:
    """Skip where a program is missing, or where `make TARGET` fails; fail instead where a cluster is required."""
    missing = [program for program in programs if shutil.which(program) is None]
    reason = f"needs {' and '.join(missing)} on PATH" if missing else ""
    if not missing:
        made = subprocess.run(["make", "-s", target], cwd=ROOT, capture_output=True, text=True, check=False)
        reason = "" if made.returncode == 0 else f"`make {target}` failed: {(made.stdout + made.stderr)[-500:]}"
    if reason and os.environ.get("PASSRL_REQUIRE_CLUSTER"):
        pytest.fail(f"PASSRL_REQUIRE_CLUSTER is set, but this test {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two slots and a worker pool, on free ports."""
    need("java", "mvn", target="flink")
    with LocalCluster(tmp_path_factory.mktemp("flink"), slots=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def prism() -> str:
    """The Prism binary."""
    need("go", target="prism")
    return str(ROOT / ".cache" / "prism" / "prism")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> ClusterProject:
    """Recorded engine, three signals, forty prompts in ten parts."""
    return ClusterProject.make(tmp_path_factory.mktemp("project"), tiny_model)
