"""Which GPUs a run names, and which of them an engine gets. No GPU is needed to know."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.options import ConfigError, build
from pipelines.runners import RunnerFlagError, RunnerOptions
from pipelines.runners.gpus import GpuError, engine_cards, node_cards, visible_devices

WRONG: list[tuple[Any, str]] = [
    ([0, 0], "names GPU 0 twice"),
    ([[0, 1], [1, 2]], "names GPU 1 twice"),
    ([], r"is \[\]"),
    ("some", 'it must be "all"'),
    (2, 'it must be "all"'),
    ([-1], "names -1"),
    ([True], "names True"),
    ([0, [1]], "mixes GPUs and groups"),
    ([[0], [1, 2]], "groups of 1 and 2 GPUs"),
    ([[]], "groups of 0"),
    ([["cpu"], ["cpu"]], 'list "cpu" N times'),
    (["cpu", 0], "name one"),
]


@pytest.mark.parametrize(("given", "kept"), [
    ("all", "all"), (None, None), ([0, 2], (0, 2)),
    ([[0, 1], [2, 3]], ((0, 1), (2, 3))), (["cpu", "cpu"], ("cpu", "cpu")),
])  # fmt: skip
def test_every_form_is_kept_as_given_from_toml_and_from_python(given: Any, kept: Any) -> None:
    assert RunnerOptions(gpus=given).gpus == kept
    assert build(RunnerOptions, {"gpus": given}, where="toml").gpus == kept


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_names_no_node_is_refused_in_words(given: Any, said: str) -> None:
    with pytest.raises(RunnerFlagError, match=f"gpus: .*{said}"):
        RunnerOptions(gpus=given)
    with pytest.raises(ConfigError, match="gpus: "):
        build(RunnerOptions, {"gpus": given}, where="toml")


@pytest.mark.parametrize("name", ["flink", "dataflow", "prism"])
def test_only_the_direct_runner_has_a_node(name: Any) -> None:
    with pytest.raises(RunnerFlagError, match=f"gpus is set, but runner {name}"):
        RunnerOptions(name=name, gpus="all")


def test_several_worker_processes_would_each_start_every_engine() -> None:
    with pytest.raises(RunnerFlagError, match="multi_processing"):
        RunnerOptions(gpus="all", flags=("--direct_running_mode=multi_processing",))
    assert RunnerOptions(gpus="all", flags=("--direct_running_mode=multi_threading",)).gpus == "all"


@pytest.mark.parametrize(("gpus", "each", "count", "dealt"), [
    ("all", 1, 2, ((0,), (1,))),
    ("all", 2, 4, ((0, 1), (2, 3))),
    ((3, 1), 1, 4, ((3,), (1,))),
    ((3, 1), 2, 4, ((3, 1),)),
    (((2, 3), (0, 1)), 2, 4, ((2, 3), (0, 1))),
    (("cpu", "cpu"), 1, 0, (("cpu",), ("cpu",))),
])  # fmt: skip
def test_each_engine_gets_whole_gpus_in_the_order_named(gpus: Any, each: int, count: int, dealt: Any) -> None:
    assert engine_cards(gpus, each=each, count=count) == dealt


@pytest.mark.parametrize(("gpus", "each", "count", "said"), [
    ("all", 1, 0, "NVML shows no GPU"),
    ((0, 2), 1, 2, "names GPU 2, but this machine shows GPUs 0 to 1"),
    ((0,), 1, 0, "shows no GPU"),
    ((1,), 1, 1, "shows GPU 0;"),
    ("all", 2, 3, "leaves 1 over"),
    ((0, 1, 2), 2, 3, "leaves 1 over"),
    (((0, 1), (2, 3)), 1, 4, "groups of 2 GPUs, but an engine uses 1"),
    (((0, 1), (2, 3)), 4, 4, "groups of 2 GPUs, but an engine uses 4"),
])  # fmt: skip
def test_gpus_that_are_not_there_or_come_out_uneven_are_refused(gpus: Any, each: int, count: int, said: str) -> None:
    with pytest.raises(GpuError, match=said):
        engine_cards(gpus, each=each, count=count)


def test_the_update_takes_every_gpu_of_every_group() -> None:
    assert node_cards(((2, 3), (0, 1)), count=4) == (2, 3, 0, 1)


def test_a_child_sees_its_gpus_by_the_names_they_have_outside() -> None:
    outer = {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,7"}
    assert [visible_devices(cards, outer) for cards in ((2, 0), (1,), ("cpu",))] == ["7,GPU-a", "GPU-b", ""]
    assert visible_devices((0, 3), {}) == "0,3"
