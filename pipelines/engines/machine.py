"""The GPUs of this machine as the driver's own library (NVML) describes them; no CUDA context is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

GIB = 2**30
# Lowest Linux driver of a CUDA toolkit's major version ("minor version compatibility"; CUDA Toolkit Release Notes,
# table "CUDA Toolkit and Corresponding Driver Versions").
DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one device, in bytes."""

    free: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card that this process may use. processes: pid and bytes (None: the driver does not say) of everybody's."""

    index: int
    name: str
    memory: Memory
    processes: tuple[tuple[int, int | None], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What NVML says. driver: its version. problem: why NVML says nothing, in words; broken: a driver is there."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    problem: str | None = None
    broken: bool = False


#: how much of its device is free; None where a process computes on the CPU, whose memory nobody hands on
Meter = Callable[[], Memory | None]


def gib(size: int) -> str:
    """A size as messages give it.

    >>> gib(77309411328)
    '72.0 GiB'
    """
    return f"{size / GIB:.1f} GiB"


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


def least_memory(cards: Iterable[int | str]) -> Memory | None:
    """Of that of these GPUs which has the least free; None where they are shares of the CPU."""
    gpus = this_machine().gpus
    return min((gpus[int(card)].memory for card in cards if card != "cpu"), key=lambda one: one.free, default=None)


def this_machine() -> Machine:
    """The driver and the GPUs that CUDA_VISIBLE_DEVICES leaves this process, in its order."""
    try:
        import pynvml
    except ImportError:
        return Machine(problem="the package nvidia-ml-py, which asks the NVIDIA driver, is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Machine(problem=_no_driver(pynvml, error), broken=error.value != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [_handle(pynvml, name) for name in _visible(pynvml.nvmlDeviceGetCount())]
        return Machine(driver=driver, gpus=tuple(_gpu(pynvml, i, handle) for i, handle in enumerate(handles)))
    except pynvml.NVMLError as error:
        return Machine(
            problem=f"the NVIDIA driver does not describe the GPUs that CUDA_VISIBLE_DEVICES names ({error})"
        )
    finally:
        pynvml.nvmlShutdown()


def _visible(count: int) -> list[str]:
    """The indices or UUIDs of the cards this process may use; as CUDA does, it stops at the first that is not there."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(count)]
    names = []
    for name in (part.strip() for part in named.split(",")):
        if not name or name == "-1" or (name.isdigit() and int(name) >= count):
            break
        names.append(name)
    return names


def _handle(pynvml: Any, name: str) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)


def _gpu(pynvml: Any, index: int, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return Gpu(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory=Memory(free=int(memory.free), total=int(memory.total)),
        processes=tuple((int(process.pid), process.usedGpuMemory) for process in processes),
    )


def _no_driver(pynvml: Any, error: Any) -> str:
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return "this machine has no NVIDIA driver (libnvidia-ml.so.1 is not found; a container needs --gpus all)"
    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "the NVIDIA driver was updated but the old one still runs; restart the machine"
    return f"the NVIDIA driver does not answer ({error})"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _numbers(driver: str) -> tuple[int, ...]:
    return tuple(int(part) for part in driver.split(".") if part.isdigit())
