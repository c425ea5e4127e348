"""A real vLLM engine in the workers of a Flink cluster: the rollouts of the direct runner."""

from __future__ import annotations

import numpy as np
import pytest

from pass_ops import shards
from tests.cluster.jobs import ClusterProject, external

pytestmark = pytest.mark.cluster

# Batches form by arrival, so float sums may round otherwise and flip a token now and then.
SAME_IDS = 0.99
LOGPROBS = 1e-5
ENGINE = ("engine.kind=vllm", "engine.dtype=float32", "engine.kv_cache_gib=0.25", "engine.max_num_seqs=32")


@pytest.fixture
def vllm_project(tmp_path, tiny_model) -> ClusterProject:
    return ClusterProject.make(tmp_path, tiny_model)


def rollouts(project: ClusterProject, name: str) -> dict[str, tuple[list[int], list[float]]]:
    """rollout_id -> token ids and logprobs."""
    dataset = shards.open_dataset(str(project.folder / name / "round-000" / "rollouts"))
    rows = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]
    return {row["rollout_id"]: (row["token_ids"], row["behavior_logprobs"]) for row in rows}


def test_rollouts_of_two_workers_are_those_of_the_direct_runner(vllm_project, flink):
    settings = [flag for setting in ENGINE for flag in ("--set", setting)]
    vllm_project.run("direct", settings, stages=["generate"])
    vllm_project.run("flink", [*settings, *external(flink)], stages=["generate"])
    direct, found = rollouts(vllm_project, "direct"), rollouts(vllm_project, "flink")
    assert found.keys() == direct.keys()
    same = [key for key in direct if found[key][0] == direct[key][0]]
    assert len(same) >= SAME_IDS * len(direct)
    for key in same:
        np.testing.assert_allclose(found[key][1], direct[key][1], rtol=0, atol=LOGPROBS)
