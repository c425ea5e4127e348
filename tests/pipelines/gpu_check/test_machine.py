"""What is said of a machine, by what its driver says."""

from __future__ import annotations

import pytest

from deploy import choose_list
from pipelines.engines.machine import DRIVERS, GIB, Gpu, Memory
from pipelines.engines.machine import Machine as Driver
from pipelines.gpu_check.base import CheckError, CheckOptions, Machine
from pipelines.gpu_check.machine import check_driver, describe_machine, used_bytes
from pipelines.gpu_check.models import sizes


def gpu(*, index=0, gib=80.0, used=0.0, processes=()):
    memory = Memory(free=int((gib - used) * GIB), total=int(gib * GIB))
    return Gpu(index=index, name="NVIDIA H100 80GB HBM3", memory=memory, processes=processes)


@pytest.fixture
def driver_says(monkeypatch):
    """driver_says(gpus=..., driver=...) is what NVML answers from then on."""

    def say(**facts):
        monkeypatch.setattr("pipelines.gpu_check.machine.this_machine", lambda: Driver(**facts))

    return say


def test_gpus_and_driver_are_taken_over(driver_says, tmp_path):
    driver_says(gpus=(gpu(), gpu(index=1, used=1.5)), driver="580.95.05")
    machine = describe_machine(CheckOptions(out=str(tmp_path)))
    assert machine.device == "cuda"
    assert machine.words == "cuda: 2 x NVIDIA H100 80GB HBM3, driver 580.95.05"
    assert used_bytes() == 1.5 * GIB
    assert describe_machine(CheckOptions(out=str(tmp_path), device="cpu")).words.startswith("cpu: tiny models")


def test_without_a_gpu_cuda_is_refused_and_auto_takes_the_cpu(driver_says, tmp_path):
    driver_says(problem="this machine has no NVIDIA driver")
    assert describe_machine(CheckOptions(out=str(tmp_path))).device == "cpu"
    with pytest.raises(CheckError, match="no GPU to check: this machine has no NVIDIA driver"):
        describe_machine(CheckOptions(out=str(tmp_path), device="cuda"))


def test_an_old_driver_and_a_gpu_in_use_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    busy, options = (gpu(used=9.0, processes=((4711, None),)),), CheckOptions(out=str(tmp_path))
    old = check_driver(Machine(device="cuda", gpus=busy, driver="575.57.08"), options)
    assert old.status == "failed"
    assert "driver 575.57.08 is older than 580.65.06, which CUDA 13.0 needs" in old.why
    assert "9.0 GiB of GPU 0 are in use (process 4711)" in old.why
    new = check_driver(Machine(device="cuda", gpus=(gpu(),), driver="580.95.05"), options)
    assert "cannot use the GPU" in new.why  # the driver will do; here is no card
    assert "in use" not in new.why


def test_another_version_than_the_pinned_one_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("pipelines.gpu_check.machine.requires", lambda _: ["torch==1.0.0; extra == 'gpu'", "numba>=0"])
    result = check_driver(Machine(device="cpu"), CheckOptions(out=str(tmp_path)))
    assert (result.status, result.why[:40]) == ("failed", "torch is 2.13.0, passrl pins 1.0.0: inst")


def test_on_a_cpu_the_packages_are_in_order(tmp_path):
    result = check_driver(Machine(device="cpu"), CheckOptions(out=str(tmp_path)))
    assert (result.status, result.why) == ("ok", "")
    assert result.figures["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("gib", "large", "small", "rounds"),
    [
        (139, "7B", "1.5B", "0.5B"),
        (79.6, "7B", "1.5B", "0.5B"),
        (24, "1.5B", "0.5B", "tiny"),
        (8, "tiny", "tiny", "tiny"),
    ],
)
def test_models_are_as_large_as_the_card_holds(gib, large, small, rounds):
    found = sizes(Machine(device="cuda", gpus=(gpu(gib=gib),)))
    assert (found.large, found.small, found.rounds) == (large, small, rounds)


def test_make_install_asks_for_the_same_drivers():
    """deploy/choose_list.py runs before anything is installed, so it has a table of its own."""
    assert {int(major): driver for major, driver in choose_list.DRIVERS.items()}.items() <= DRIVERS.items()
    assert max(map(int, choose_list.DRIVERS)) == max(DRIVERS)
