"""The cluster part of `make test`: the same datasets as on the direct runner."""

from __future__ import annotations

import pytest

from tests.cluster.jobs import external, loopback

# Workers in the client end with the job server hanging up on their data channel: Beam's thread says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_flink_makes_the_datasets_of_the_direct_runner(project, flink):
    direct = project.run("direct")
    assert set(direct) == {"prompts", "rollouts", "signals/outcome", "signals/format", "signals/steps", "shaped"}
    assert project.run("flink-loopback", loopback(flink)) == direct
    external_rollouts = project.run("flink-external", external(flink), stages=["generate"])["rollouts"]
    assert external_rollouts == direct["rollouts"]
