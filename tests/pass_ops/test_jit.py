"""Kernels and what an earlier release left of them on disk."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from tests.processes import wait_until

MODULE = """
from pass_ops.support.jit import kernel

@kernel
def double(values):
    return values * 2
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "kernels_on_disk.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return fresh()


def fresh() -> ModuleType:
    sys.modules.pop("kernels_on_disk", None)
    return importlib.import_module("kernels_on_disk")


def compiled_and_loaded(module: ModuleType) -> tuple[int, int]:
    assert module.double(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    stats = module.double.stats
    return sum(stats.cache_misses.values()), sum(stats.cache_hits.values())


def test_a_kernel_is_compiled_once_and_kept(module: ModuleType) -> None:
    assert compiled_and_loaded(module) == (1, 0)
    assert compiled_and_loaded(fresh()) == (0, 1)


@pytest.mark.parametrize("damage", ["a module that is gone", "truncated"])
def test_an_index_that_cannot_be_read_is_an_empty_one(module: ModuleType, tmp_path: Path, damage: str) -> None:
    compiled_and_loaded(module)
    (index,) = tmp_path.glob("__pycache__/*.nbi")
    with open(index, "rb") as stream:
        version = pickle.load(stream)
        rest = stream.read()
    gone = b"cpass_ops.gone\nRagged\n."  # pickle's "the class Ragged of pass_ops.gone"
    index.write_bytes(pickle.dumps(version, protocol=-1) + (gone if damage != "truncated" else rest[: len(rest) // 2]))
    assert compiled_and_loaded(fresh()) == (1, 0)
    assert compiled_and_loaded(fresh()) == (0, 1), "and it is made anew"


OTHER_TYPE = """
import fcntl, pathlib
import numpy as np
flock = fcntl.flock

def asked(file, operation):
    pathlib.Path("asked").touch()
    flock(file, operation)

fcntl.flock = asked
from kernels_on_disk import double
assert double(np.arange(3)).tolist() == [0, 2, 4]
"""


def test_a_process_that_compiles_for_another_type_meanwhile_takes_its_turn(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba has read the index and has not yet written it: without turns it would overwrite the other's."""
    others: list[subprocess.Popen[bytes]] = []
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    save = IndexDataCacheFile._save_index

    def late(file: IndexDataCacheFile, overloads: dict[object, str]) -> None:
        command = [sys.executable, "-c", OTHER_TYPE]
        others.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path))
        wait_until(lambda: (tmp_path / "asked").exists() or others[0].poll() is not None)
        save(file, overloads)

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", late)
    assert compiled_and_loaded(module) == (1, 0)
    assert others[0].wait(300) == 0
    again = fresh()
    assert compiled_and_loaded(again) == (0, 1)
    assert again.double(np.arange(3)).tolist() == [0, 2, 4]
    assert sum(again.double.stats.cache_hits.values()) == 2


LATER = """
import sys
import numba, numpy as np
from kernels_on_disk import double

assert double(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
assert sum(double.stats.cache_hits.values()) == 1
assert "numba.np.linalg" not in sys.modules, "the compiler's functions were loaded for a kernel that is compiled"

@numba.njit
def squares(values):
    return np.dot(double(values), double(values))

assert squares(np.arange(3.0)) == 20.0
assert double(np.arange(3)).tolist() == [0, 2, 4], "another type, so it is compiled"
"""


def test_after_a_kernel_was_loaded_others_compile(module: ModuleType, tmp_path: Path) -> None:
    compiled_and_loaded(module)
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", LATER], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
