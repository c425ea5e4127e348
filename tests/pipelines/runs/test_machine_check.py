"""A run on a machine that cannot run it is refused before its first token, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.engines import EngineOptions
from pipelines.engines.machine import GIB, Gpu, Machine, Memory, this_machine
from pipelines.options import build
from pipelines.runs.check import RunRefused, check_run
from pipelines.runs.config import RunConfig
from pipelines.runs.machine_check import Use, machine_problems
from pipelines.runs.run import Run

NEW = "580.95.05"
NO_DRIVER = Machine(problem="this machine has no NVIDIA driver (libnvidia-ml.so.1 is not found)")
BROKEN = Machine(problem="the NVIDIA driver was updated but the old one still runs; restart the machine", broken=True)


def card(index: int = 0, *, free: float = 79.0, processes: tuple[tuple[int, int | None], ...] = ()) -> Gpu:
    memory = Memory(free=int(free * GIB), total=80 * GIB)
    return Gpu(index=index, name="NVIDIA H100 80GB HBM3", memory=memory, processes=processes)


def machine(*gpus: Gpu, driver: str = NEW) -> Machine:
    return Machine(gpus=gpus or (card(),), driver=driver)


def engine(device: str = "cuda", *, named: str | None = None, heads: int = 28, **options: Any) -> Use:
    asked = EngineOptions(device=named or device, **options)  # type: ignore[arg-type]
    return Use(place="engine", device=device, options=asked, config={"num_attention_heads": heads})


def problems(view: Machine, *uses: Use, **known: Any) -> list[str]:
    return list(machine_problems(view, uses or (engine(),), **{"cuda": "13.0", **known}))


def test_an_idle_machine_will_do() -> None:
    assert problems(machine()) == []
    assert problems(NO_DRIVER, engine("cpu"), engine("cpu", named="auto"), Use(place="train", device="cpu")) == []


def test_no_driver_is_refused_where_a_gpu_is_asked_for() -> None:
    assert problems(NO_DRIVER, engine(), Use(place="train", device="cuda")) == [
        f"{place}: device is cuda, but {NO_DRIVER.problem}" for place in ("engine", "train")
    ]
    (hidden,) = problems(Machine(driver=NEW), engine())
    assert "CUDA_VISIBLE_DEVICES" in hidden


def test_a_driver_that_does_not_answer_is_no_reason_to_compute_on_the_cpu() -> None:
    (line,) = problems(BROKEN, engine("cpu", named="auto"))
    assert line == f"engine: device is auto, but {BROKEN.problem}"
    assert problems(BROKEN, engine("cpu")) == []


@pytest.mark.parametrize(("driver", "cuda", "old"), [("575.57.08", "13.0", True), ("575.57.08", "12.9", False)])
def test_an_old_driver_is_named_with_the_one_that_is_needed(driver: str, cuda: str, old: bool) -> None:
    found = problems(machine(driver=driver), cuda=cuda)
    assert len(found) == old
    assert all("575.57.08" in line and "580.65.06" in line for line in found)


def test_a_card_in_use_is_named_with_who_holds_it_and_what_would_fit() -> None:
    busy = card(free=20.0, processes=((4711, 58 * GIB), (4712, None)))
    (line,) = problems(machine(busy))
    for words in (
        "72.0 GiB of GPU 0 (NVIDIA H100 80GB HBM3)",
        "20.0 GiB of 80.0 GiB are free",
        "process 4711 holds 58",
    ):
        assert words in line
    assert "gpu_memory_utilization to 0.23 or less" in line
    assert problems(machine(busy), engine(extra={"gpu_memory_utilization": 0.23})) == []
    assert problems(machine(busy), ours=55 * GIB) == [], "what this process holds, its ledger gives back"
    assert problems(machine(busy), engine(kind="transformers")) == []


def test_only_the_cards_that_an_engine_uses_have_to_be_free() -> None:
    two = machine(card(0), card(1, free=1.0))
    assert problems(two) == []
    (line,) = problems(two, engine(extra={"tensor_parallel_size": 2}))
    assert "GPU 1" in line


def test_workers_that_are_processes_would_all_take_the_first_card() -> None:
    (line,) = problems(machine(card(0), card(1)), processes=True)
    assert line.startswith("runner.flags has direct_running_mode multi_processing")
    assert problems(machine(), Use(place="train", device="cuda"), engine("cpu"), processes=True) == []
    assert problems(NO_DRIVER, engine("cpu"), processes=True) == []


def test_tensor_parallelism_divides_the_heads_and_has_its_gpus() -> None:
    eight = machine(*(card(index) for index in range(8)))
    (line,) = problems(eight, engine(extra={"tensor_parallel_size": 8}))
    assert "tensor_parallel_size is 8" in line
    assert "28 attention heads; choose one of 1, 2, 4, 7, 14, 28" in line
    assert problems(eight, engine(extra={"tensor_parallel_size": 4})) == []
    (line,) = problems(machine(), engine(extra={"tensor_parallel_size": 4}))
    assert "asks for 4 GPUs" in line


@pytest.fixture
def run(tiny_model: str, tmp_path: Path) -> Run:
    """A run on a GPU, of which the check has to be told."""
    prompts = tmp_path / "sums.jsonl"
    prompts.write_text(json.dumps({"prompt": "1+1=?", "answer": "2"}) + "\n")
    table = {
        "prompts": {"source": str(prompts)},
        "policy": {"model": tiny_model},
        "engine": {"device": "cuda", "extra": {"tensor_parallel_size": 3}},
        "signals": {
            "outcome": {"signal": "outcome", "verifier": "number"},
            "teacher": {"signal": "logprobs", "model": tiny_model},
        },
        "shape": {"estimator": "grpo_outcome", "outcome": "outcome", "weights": {"format": 0.0}},
        "train": {"device": "cpu"},
    }
    return Run(config=build(RunConfig, table, where="test"), url=str(tmp_path / "run"))


def test_a_run_is_refused_with_the_lines_of_its_engines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runs.check.this_machine", lambda: NO_DRIVER)
    with pytest.raises(RunRefused) as refused:
        check_run(run)
    said = "\n".join(refused.value.problems)
    assert "engine: device is cuda, but this machine has no NVIDIA driver" in said
    assert "signals.teacher.engine: device is cuda, but this machine has no NVIDIA driver" in said
    assert "engine: extra.tensor_parallel_size is 3" in said


def test_the_machine_of_the_tests_is_described_without_an_error() -> None:
    found = this_machine()
    assert bool(found.gpus) == (found.problem is None)
