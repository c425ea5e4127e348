"""Twelve faults of all kinds on a running Flink job; `make faults` runs fifty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import need
from tests.cluster.faults import FIFTY, Arena, arena, plan

pytestmark = pytest.mark.cluster

TWELVE = {"worker": 4, "pool": 3, "taskmanager": 2, "client": 3}
JOBS = plan(1, TWELVE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Iterator[Arena]:
    need("java", "mvn", target="flink")
    folder: Path = tmp_path_factory.mktemp("faults")
    with arena(folder, tiny_model) as made:
        yield made


@pytest.mark.parametrize("job", range(len(JOBS)))
def test_a_job_that_meets_faults_makes_the_undisturbed_dataset(place, job):
    outcome = place.run(f"job-{job}", JOBS[job])
    assert (outcome.complete, outcome.same_bytes) == (True, True)


@pytest.mark.parametrize("counts", [TWELVE, FIFTY])
def test_the_list_has_every_kind_as_often_as_it_should(counts):
    faults = [fault for job in plan(1, counts) for fault in job]
    assert Counter(fault.kind for fault in faults) == counts
    assert len({fault.point for fault in faults}) > 3
