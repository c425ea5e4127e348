"""Recorded engine -> signals -> shape: one content digest a dataset, whatever the runner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cluster.jobs import external, loopback, process

# Workers in the client end with the job server hanging up on their data channel: Beam's thread says so.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

DIRECT_PROCESSES = ["--", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def direct(project):
    """What the direct runner makes, in one process."""
    return project.run("direct")


def test_direct_with_several_processes(project, direct):
    assert project.run("processes", DIRECT_PROCESSES) == direct


def test_prism(project, direct, prism):
    assert project.run("prism", ["--runner", "prism", "--", f"--prism_location={prism}"]) == direct


def test_flink_with_workers_in_the_client(project, direct, flink):
    assert project.run("loopback", loopback(flink)) == direct


def test_flink_with_two_workers_of_a_pool(project, direct, flink):
    assert project.run("external", external(flink)) == direct


def test_flink_with_workers_of_the_task_manager(project, direct, flink):
    worker = str(Path(sys.executable).with_name("passrl-worker"))
    assert project.run("process", process(flink, worker)) == direct
