"""The machine as a made-up nvidia-smi describes it, and what is said of it."""

from __future__ import annotations

import pytest

from pipelines.gpu_check.base import GIB, Card, CheckError, CheckOptions, Machine
from pipelines.gpu_check.machine import check_driver, describe_machine, used_bytes
from pipelines.gpu_check.models import sizes

H100 = "NVIDIA H100 80GB HBM3, 81559, {used}, {driver}"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(line, ...) puts a program of that name on PATH, which prints these lines and notes its arguments."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*lines, code=0):
        program = tmp_path / "nvidia-smi"
        shown = "\n".join(lines)
        program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\ncat <<'END'\n{shown}\nEND\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path / "asked"

    return make


def test_cards_and_driver_are_read(nvidia_smi, tmp_path):
    nvidia_smi(H100.format(used=4, driver="580.95.05"), H100.format(used=1024, driver="580.95.05"))
    machine = describe_machine(CheckOptions(out=str(tmp_path)))
    assert machine.device == "cuda"
    assert machine.cards[1] == Card(name="NVIDIA H100 80GB HBM3", memory=81559 * 2**20, used=2**30)
    assert machine.words == "cuda: 2 x NVIDIA H100 80GB HBM3, driver 580.95.05"
    assert used_bytes() == (4 * 2**20, 2**30)


def test_only_the_visible_cards_are_asked_about(nvidia_smi, tmp_path, monkeypatch):
    asked = nvidia_smi(H100.format(used=4, driver="580.95.05"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    describe_machine(CheckOptions(out=str(tmp_path)))
    assert asked.read_text().endswith("-i 3\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert describe_machine(CheckOptions(out=str(tmp_path))).device == "cpu"


def test_without_a_gpu_cuda_is_refused_and_auto_takes_the_cpu(nvidia_smi, tmp_path):
    nvidia_smi("No devices were found", code=6)
    assert describe_machine(CheckOptions(out=str(tmp_path))).device == "cpu"
    with pytest.raises(CheckError, match="nvidia-smi shows no GPU"):
        describe_machine(CheckOptions(out=str(tmp_path), device="cuda"))


def test_a_card_that_does_not_tell_its_memory_is_refused(nvidia_smi, tmp_path):
    nvidia_smi("NVIDIA GB10, [N/A], [N/A], 580.95.05")
    with pytest.raises(CheckError, match="of the memory of NVIDIA GB10"):
        describe_machine(CheckOptions(out=str(tmp_path)))


def test_an_old_driver_and_a_card_in_use_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    card = Card(name="NVIDIA H100 80GB HBM3", memory=80 * GIB, used=9 * GIB)
    old = check_driver(Machine(device="cuda", cards=(card,), driver="575.57.08"), CheckOptions(out=str(tmp_path)))
    assert old.status == "failed"
    assert "driver 575.57.08 is older than 580.65.06, which CUDA 13.0 needs" in old.why
    assert "9.0 GiB of GPU 0 are in use by another process" in old.why
    new = check_driver(Machine(device="cuda", cards=(card,), driver="580.95.05"), CheckOptions(out=str(tmp_path)))
    assert "cannot use the GPU" in new.why  # the driver will do; here is no card


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
    found = sizes(Machine(device="cuda", cards=(Card(name="card", memory=int(gib * GIB), used=0),)))
    assert (found.large, found.small, found.rounds) == (large, small, rounds)
