"""Which list of packages `make install` takes on this machine: prints its path; what it found, and why, on stderr.

Runs before anything is installed, so it uses the standard library alone. A machine with an NVIDIA GPU gets
requirements/gpu.txt, if its driver runs the CUDA version of that list; others get requirements/cpu.txt.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LISTS = Path(__file__).resolve().parent.parent / "requirements"
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
# Lowest Linux driver of a CUDA major version (CUDA Toolkit Release Notes, "minor version compatibility").
DRIVERS = {"12": "525.60.13", "13": "580.65.06"}


def gpus(answer: str) -> list[tuple[str, str]]:
    """Name and driver of each GPU, from what nvidia-smi answered; none where it reports an error instead.

    >>> gpus("NVIDIA H100 80GB HBM3, 580.95.05")
    [('NVIDIA H100 80GB HBM3', '580.95.05')]
    """
    found = (re.fullmatch(r"(.+), (\d+(?:\.\d+)+)", line.strip()) for line in answer.splitlines())
    return [(line[1], line[2]) for line in found if line]


def needed_driver(pins: str) -> str:
    """The lowest driver for a list of packages, by the major version of its cuda-toolkit."""
    found = re.search(r"^cuda-toolkit==(\d+)", pins, re.MULTILINE)
    return DRIVERS.get(found[1] if found else "", DRIVERS[max(DRIVERS)])


def choose(cards: list[tuple[str, str]], *, needed: str, error: str = "") -> tuple[str | None, str]:
    """The list's name, None where the GPUs cannot be used with it; and the sentence that says why."""
    if not cards:
        why = f" nvidia-smi says: {error}." if error else ""
        return (
            "cpu",
            f"No NVIDIA GPU was found.{why} Installing the CPU list; `make install LIST=gpu` takes the other.",
        )
    name, driver = cards[0]
    what = f"{len(cards)} x {name}, driver {driver}"
    if _numbers(driver) < _numbers(needed):
        return None, (
            f"{what}: the GPU list needs driver {needed} or later, so torch would find no GPU. Update the driver, or "
            "install the CPU list with `make install LIST=cpu`."
        )
    return "gpu", f"{what}: installing the GPU list (driver {needed} or later is enough)."


def ask() -> tuple[list[tuple[str, str]], str]:
    """The GPUs of this machine, and what nvidia-smi complains of ("" where it is absent or content)."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], "" if isinstance(error, FileNotFoundError) else str(error)
    cards = gpus(done.stdout) if done.returncode == 0 else []
    return cards, "" if cards else " ".join((done.stderr or done.stdout).split())


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def main(wanted: str = "") -> int:
    """Prints the path of the list; 1 where there is none. wanted: cpu or gpu, whatever the machine has."""
    if wanted:
        name: str | None = wanted
        said = f"LIST={wanted}: installing that list without a look at the driver."
    else:
        cards, error = ask()
        name, said = choose(cards, needed=needed_driver((LISTS / "gpu.txt").read_text("utf-8")), error=error)
    print(said, file=sys.stderr)
    if name is None or not (LISTS / f"{name}.txt").is_file():
        print("" if name is None else f"There is no requirements/{name}.txt; LIST is cpu or gpu.", file=sys.stderr)
        return 1
    print(f"requirements/{name}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
