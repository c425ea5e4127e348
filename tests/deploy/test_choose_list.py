"""`make install` takes the GPU list where a GPU and its driver can use it, and says what it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.choose_list import LISTS, choose, gpus, needed_driver

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "choose_list.py"
H100 = "NVIDIA H100 80GB HBM3, {}"


def chosen(folder: Path, *wanted: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """The script with this nvidia-smi, or none, on PATH."""
    if script is not None:
        fake = folder / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
    given = dict(os.environ, PATH=f"{folder}:/usr/bin:/bin" if script is not None else str(folder))
    return subprocess.run([sys.executable, SCRIPT, *wanted], capture_output=True, text=True, check=False, env=given)


@pytest.mark.parametrize(
    ("script", "code", "printed", "said"),
    [
        (None, 0, "requirements/cpu.txt", "No NVIDIA GPU was found"),
        (f"echo '{H100.format('580.95.05')}'; echo '{H100.format('580.95.05')}'", 0, "requirements/gpu.txt", "2 x NV"),
        (f"echo '{H100.format('535.104.05')}'", 1, "", "needs driver 580.65.06 or later"),
        ("echo 'No devices were found'; exit 6", 0, "requirements/cpu.txt", "No devices were found"),
        ("echo 'Driver/library version mismatch' >&2; exit 18", 0, "requirements/cpu.txt", "version mismatch"),
    ],
)
def test_the_list_follows_what_nvidia_smi_says(tmp_path, script, code, printed, said):
    done = chosen(tmp_path, script=script)
    assert (done.returncode, done.stdout.strip()) == (code, printed)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_named_is_taken_whatever_the_machine_has(tmp_path):
    assert chosen(tmp_path, "gpu").stdout.strip() == "requirements/gpu.txt"
    refused = chosen(tmp_path, "tpu")
    assert refused.returncode == 1
    assert "LIST is cpu or gpu" in refused.stderr


def test_drivers_are_compared_as_numbers_and_the_list_decides_which_is_needed():
    assert needed_driver((LISTS / "gpu.txt").read_text()) == "580.65.06"
    assert needed_driver("cuda-toolkit==12.9.1\n") == "525.60.13"
    cards = gpus(H100.format("1000.1"))
    assert choose(cards, needed="580.65.06")[0] == "gpu"
    assert choose(gpus(H100.format("580.65.05")), needed="580.65.06")[0] is None


def test_make_install_uses_it():
    planned = subprocess.run(
        ["make", "-n", "-B", "install", "LIST=gpu"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "deploy/choose_list.py gpu" in planned
