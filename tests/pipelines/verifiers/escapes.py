"""Programs that would rather not be tested: what each tries, and the run that shows what it gets.

    python tests/pipelines/verifiers/escapes.py [--without-landlock]

prints a JSON object, for the user who runs it: the verdict of each, of the honest programs between them, and what is
left behind of processes and files. docs/explanation/sandbox.md has its table.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from pipelines.verifiers.pool import CallPool
from pipelines.verifiers.sandbox.confine import active_isolation

REFERENCE = ["assert f(20) == 41 and f(30) == 61"]
NEAR = ["assert abs(f(20) - 41) < 1e-6"]
HONEST = "def f(x):\n    return 2 * x + 1"


def _escapes() -> dict[str, str]:
    """What is tried -> the program, from escapes.md."""
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8").replace("@wrong", "def f(x):\n    return None")
    return dict(one.split("\n", 1) for one in text.split("\n## ")[1:])


ESCAPES = _escapes()


def run() -> dict[str, object]:
    """What each gets, and what is left behind."""
    signal.signal(signal.SIGALRM, _give_up)
    # Orphans of anything below become children of this process, which then has some that it did not start.
    ctypes.CDLL(None).prctl(36, 1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        pool = CallPool(
            "pipelines.verifiers.code_tests:verify", adapter="pipelines.verifiers.base:plain_verdict", workers=2
        )
        calls = []
        for name, code in ESCAPES.items():
            reference = NEAR if "near" in name or "abs" in name else REFERENCE
            calls += [(fenced(code), json.dumps(reference)), (fenced(HONEST), json.dumps(REFERENCE))]
        results = pool.map(calls, options={"test_timeout_s": 1.0}, timeout_s=10.0)
        pool.close()
        verdicts = [[result.status, result.value and result.value[0]] for result in results]
        left = os.listdir(folder)
    left += [name for name in os.listdir("/dev/shm") if name.startswith("passrl-escape")]
    left += [line for line in Path("/proc/sysvipc/shm").read_text().splitlines() if str(0x7A551) in line.split()[:1]]
    return {
        "user": os.getuid(),
        "isolation": active_isolation(),
        "escapes": dict(zip(ESCAPES, verdicts[::2], strict=True)),
        "honest": verdicts[1::2],
        "left": left + _children(),
    }


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _children() -> list[str]:
    """Processes that do not end although their supervisors have."""
    signal.alarm(120)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return []
    except TimeoutError:
        return ["a living process"]
    finally:
        signal.alarm(0)


def _give_up(*_: object) -> None:
    raise TimeoutError


def without_landlock() -> None:
    """As on an older kernel: landlock_create_ruleset is not there, for this process and all below."""
    filter_calls([(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)])


def filter_calls(lines: list[tuple[int, int, int, int]]) -> None:
    """Put a filter on the system calls of this process: instructions of classic BPF."""
    program = b"".join(struct.pack("=HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, given, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter")


if __name__ == "__main__":
    if "--without-landlock" in sys.argv:
        without_landlock()
    print(json.dumps(run()))
