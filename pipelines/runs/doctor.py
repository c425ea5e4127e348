"""`passrl doctor`: what is installed, what this machine has, and what is missing for what."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from pass_ops.support.nearest import advice
from pipelines.engines.machine import gib, this_machine
from pipelines.options import ConfigError
from pipelines.verifiers.sandbox import active_isolation

LEAST_DISK = 2**30
#: extra -> what it is for
PURPOSES = {
    "cpu": "sampling and scoring with vLLM on CPUs",
    "gpu": "sampling and scoring with vLLM on GPUs",
    "models": "training, and the transformers engine",
    "lora": "LoRA policies",
    "adamw8bit": "train.optimizer = adamw8bit",
    "liger": "Liger's fused loss",
    "gcp": "runs on gs:// and Dataflow",
    "s3": "runs on s3://",
    "trackio": "tracking by Trackio",
    "wandb": "tracking by Weights & Biases",
    "verifiers": "the verifiers math and reasoning_gym",
    "judge": "judges and other servers",
}


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An extra of passrl: what it is for, and its packages that are not here, or not in the version it asks for."""

    extra: str
    purpose: str
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A folder and the free bytes of its disk."""

    folder: str
    free: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found. problems: what is needed and missing, one sentence each.

    versions: of passrl, Python and the packages of the base install; None where a package is missing. gpus: name and
    GiB. isolation: what holds the programs that a model writes.
    """

    versions: Mapping[str, str | None]
    platform: str
    cores: int
    gpus: tuple[str, ...]
    isolation: str
    disks: tuple[Disk, ...]
    extras: tuple[Extra, ...]
    problems: tuple[str, ...]


def diagnose(out: str, *, needs: Sequence[str] = ()) -> Diagnosis:
    """Look at this environment. out: where runs will be written. needs: extras that have to be complete.

    Raises ConfigError for an extra there is not.
    """
    for name in needs:
        if name not in PURPOSES:
            fix = advice(name, PURPOSES)
            raise ConfigError(f"--needs {name}: there is no such extra; {fix}", place=f"--needs {name}", fix=fix)
    base = list(_requirements(None))
    extras = tuple(
        Extra(extra=name, purpose=purpose, missing=tuple(filter(None, map(_problem, _requirements(name)))))
        for name, purpose in PURPOSES.items()
    )
    disks = tuple(Disk(folder=folder, free=_free(folder)) for folder in (out, tempfile.gettempdir()))
    problems = [f"{problem}: of the base install; pip install passrl" for problem in filter(None, map(_problem, base))]
    problems += [
        f"{', '.join(extra.missing)}: needed for {extra.purpose}; pip install 'passrl[{extra.extra}]'"
        for extra in extras
        if extra.extra in needs and extra.missing
    ]
    problems += [
        f"{disk.folder}: {gib(disk.free)} are free, and a run needs more; free some, or name another folder"
        for disk in disks
        if disk.free < LEAST_DISK
    ]
    return Diagnosis(
        versions={name: _version(name) for name in ("passrl", *(requirement.name for requirement in base))}
        | {"python": platform.python_version()},
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=tuple(f"{gpu.name}, {gib(gpu.memory.total)}" for gpu in this_machine().gpus),
        isolation=active_isolation(),
        disks=disks,
        extras=extras,
        problems=tuple(problems),
    )


def diagnosis_lines(found: Diagnosis) -> Iterator[str]:
    """The same for people."""
    yield ", ".join(f"{name} {number or 'missing'}" for name, number in found.versions.items())
    yield f"{found.platform}, {found.cores} cores; GPUs: {'; '.join(found.gpus) or 'none'}"
    yield f"programs of a model: {found.isolation}"
    yield from (f"{disk.folder}: {gib(disk.free)} free" for disk in found.disks)
    for extra in found.extras:
        told = f"not here: {', '.join(extra.missing)}" if extra.missing else "complete"
        yield f"{extra.extra} ({extra.purpose}): {told}"
    yield from (f"problem: {problem}" for problem in found.problems)
    if not found.problems:
        yield "nothing that is needed is missing"


def _requirements(extra: str | None) -> Iterator[Requirement]:
    """What passrl asks for: its base install, or what an extra adds, the extras within it too."""
    for text in requires("passrl") or ():
        requirement = Requirement(text)
        asked = requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})
        if not asked or (extra is not None and "extra" not in str(requirement.marker)):
            continue
        if requirement.name == "passrl":
            for inner in requirement.extras:
                yield from _requirements(inner)
        else:
            yield requirement


def _problem(requirement: Requirement) -> str | None:
    """Why a requirement is not met; None where it is."""
    found = _version(requirement.name)
    if found is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} is {found}, not {requirement.specifier}"
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _free(folder: str) -> int:
    """Free bytes of the disk that holds a folder, or the nearest folder above it that exists."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free
