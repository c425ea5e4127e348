"""The disk fills up while the run is made: a sentence, nothing half-written, and with space again the same result."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import shutil
import sys
from multiprocessing import get_context
from pathlib import Path

from tests.chaos.arena import Arena, Ended, Place
from tests.chaos.outcome import Outcome, failed, settle
from tests.e2e.killing import WITHOUT_VLLM

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
ROOM_KIB = 64 * 1024


def full_disk(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """On a file system of its own that holds a part of the run; then it grows, and the run goes on there."""
    place = arena.place(name, complete=False)
    whole = sum(path.stat().st_size for path in arena.origin.run.rglob("*") if path.is_file()) // 1024
    kib = chances.randint(8, whole)
    return _settled(arena, place, _on_small_disk, kib)


def file_limit(arena: Arena, chances: random.Random, name: str) -> Outcome:
    """With a limit on the size of a file; then without."""
    place = arena.place(name, complete=False)
    largest = max(path.stat().st_size for path in arena.origin.run.rglob("*") if path.is_file())
    return _settled(arena, place, _with_limit, int(largest ** chances.uniform(0.55, 1.0)))


def disks_of_their_own() -> bool:
    """Whether a process may mount a file system here."""
    child = os.fork()
    if child == 0:
        os._exit(_unshared())
    return os.waitpid(child, 0)[1] == 0


def _settled(arena: Arena, place: Place, limited, size: int) -> Outcome:
    context = get_context("forkserver")
    context.set_forkserver_preload(WITHOUT_VLLM)
    process = context.Process(target=limited, args=(place.whole, str(place.run), str(place.folder), size))
    process.start()
    process.join()
    report = place.folder / "ends.json"
    if process.exitcode or not report.exists():
        return failed(f"the trial itself ended with {process.exitcode}")
    for code in json.loads(report.read_text()):
        end = Ended(code=code, text=(place.folder / "limited.log").read_text(errors="backslashreplace"))
        if end.fault:
            return failed(f"rounds {end.fault}")
    outcome = settle(arena, place)
    said = any(json.loads(report.read_text()))
    return Outcome(how="repaired", words="the disk is full") if said and outcome.how == "same" else outcome


def _with_limit(command: tuple[str, ...], run: str, folder: str, size: int) -> None:
    code = _forked(command, f"{folder}/limited.log", limit=size)
    Path(folder, "ends.json").write_text(json.dumps([code]))


def _on_small_disk(command: tuple[str, ...], run: str, folder: str, kib: int) -> None:
    """Mount a small file system, run there; grow it, run again; keep a copy, for the mount ends with the process."""
    if _unshared():
        sys.exit(3)
    os.mkdir(run)
    _mount(run, kib, flags=0)
    codes = [_forked(command, f"{folder}/limited.log")]
    _mount(run, ROOM_KIB, flags=32)  # MS_REMOUNT
    codes.append(_forked(command, f"{folder}/grown.log"))
    shutil.copytree(run, f"{folder}/kept")
    ctypes.CDLL(None).umount2(run.encode(), 2)  # MNT_DETACH
    os.rmdir(run)
    os.rename(f"{folder}/kept", run)
    Path(folder, "ends.json").write_text(json.dumps(codes))


def _unshared() -> int:
    """Leave the mounts of everybody else; 0 where that is allowed."""
    flags = NEW_MOUNTS if os.geteuid() == 0 else NEW_MOUNTS | NEW_USER
    libc = ctypes.CDLL(None)
    if libc.unshare(flags):
        return 1
    return int(libc.mount(b"none", b"/", None, 0x44000, None) != 0)  # MS_REC | MS_PRIVATE


def _mount(where: str, kib: int, *, flags: int) -> None:
    if ctypes.CDLL(None).mount(b"tmpfs", where.encode(), b"tmpfs", flags, f"size={kib}k".encode()):
        sys.exit(4)


def _forked(command: tuple[str, ...], log: str, *, limit: int | None = None) -> int:
    """Run a command in a process of its own; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        from tests.e2e.killing import _run

        sys.dont_write_bytecode = True  # a limit would cut the caches of imported modules short
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            _run(list(command), log, None)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException as error:  # noqa: BLE001 - what comes this far is what the trial is to find
            os.write(1, f"Traceback (most recent call last): {error!r}".encode())
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
