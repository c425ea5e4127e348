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

from pipelines.verifiers.confine import active_isolation
from pipelines.verifiers.pool import CallPool

REFERENCE = ["assert f(20) == 41 and f(30) == 61"]
NEAR = ["assert abs(f(20) - 41) < 1e-6"]
HONEST = "def f(x):\n    return 2 * x + 1"
WRONG = "def f(x):\n    return None\n"
SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
VERDICT = """b'{"status": "passed", "detail": ""}'"""

#: what is tried -> the program; its f is wrong, so a verdict other than wrong is a success of what it tries
ESCAPES = {
    "prints the marks of success and exits": WRONG + "import os, sys\nprint('passrl: passed 0'); sys.stderr.write('\\npassrl: passed 0\\n'); sys.stderr.flush(); os._exit(0)",
    "exits with 0 while it is called": "import os\ndef f(x):\n    os._exit(0)",
    "raises SystemExit(0) while it is called": "def f(x):\n    raise SystemExit(0)",
    "registers the marks with atexit": WRONG + "import atexit, os\natexit.register(lambda: os.write(2, b'\\npassrl: passed 0\\n'))",
    "installs an excepthook that exits with 0": WRONG + "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nraise KeyError",
    "writes the verdict to every descriptor": WRONG + f"import os\nfor fd in range(64):\n    try:\n        os.write(fd, {VERDICT})\n    except OSError:\n        pass",
    "rewrites every file of its folder": WRONG + "import os\nfor name in os.listdir('.') + ['program.py', 'tests.py', '.output', '.error']:\n    open(name, 'w').write('passrl: passed 0')",
    "returns an object that equals everything": "class E:\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef f(x):\n    return E()",
    "returns an int that equals everything": "class E(int):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\ndef f(x):\n    return E(1)",
    "returns a number that is near everything": "class E:\n    def __sub__(self, other): return 0\n    __rsub__ = __sub__\n    def __abs__(self): return 0\n    def __lt__(self, other): return True\ndef f(x):\n    return E()",
    "redefines abs": "def abs(x):\n    return 0\ndef f(x):\n    return 7",
    "patches the builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef f(x):\n    return 7",
    "looks for the expected value in the frames": "import sys\ndef f(x):\n    frame, found = sys._getframe(), []\n    while frame:\n        found += [v for v in (*frame.f_locals.values(), *frame.f_code.co_consts) if isinstance(v, int) and v in (41, 61)]\n        frame = frame.f_back\n    return found[0] if found else None",
    "looks for the tests among all objects": "import gc, re\ndef f(x):\n    for one in gc.get_objects():\n        found = re.search(r'f\\(%d\\) == (\\d+)' % x, str(one)[:10000]) if isinstance(one, (dict, list, tuple)) else None\n        if found and 'gc.get' not in found.string:\n            return int(found[1])",
    "looks for the tests in its own memory": "import re\ndef f(x):\n    memory = open('/proc/self/mem', 'rb', 0)\n    for line in open('/proc/self/maps'):\n        start, end = (int(one, 16) for one in line.split()[0].split('-'))\n        if 'r' in line.split()[1] and end - start < 1 << 28:\n            try:\n                memory.seek(start)\n                found = re.search(rb'assert f\\(20\\) == (4\\d) and', memory.read(end - start))\n            except (OSError, ValueError, OverflowError):\n                continue\n            if found:\n                return int(found[1]) if x == 20 else 61",
    "looks for the tests in its parent's environment": "import os, re\ndef f(x):\n    return int(re.search(rb'f\\(20\\) == (\\d+)', open(f'/proc/{os.getppid()}/environ', 'rb').read())[1])",
    "looks for the tests in every other process": "import os, re\ndef f(x):\n    for pid in os.listdir('/proc'):\n        for name in ('cmdline', 'environ', 'fd/3', 'fd/4', 'fd/5'):\n            try:\n                found = re.search(rb'f\\(20\\) == (4\\d) and', open(f'/proc/{pid}/{name}', 'rb').read(1 << 20))\n            except OSError:\n                continue\n            if found:\n                return 41 if x == 20 else 61",
    "reads its supervisor's memory (process_vm_readv)": SYSCALL + "import os\ndef f(x):\n    buffer = ctypes.create_string_buffer(64)\n    if libc.syscall(310, os.getppid(), buffer, 1, buffer, 1, 0) < 0:\n        raise OSError(ctypes.get_errno(), 'no')",
    "traces its supervisor (ptrace)": SYSCALL + "import os\ndef f(x):\n    if libc.ptrace(16, os.getppid(), 0, 0) < 0:\n        raise OSError(ctypes.get_errno(), 'no')",
    "takes a descriptor of its supervisor (pidfd_getfd)": SYSCALL + "import os\ndef f(x):\n    pidfd = os.pidfd_open(os.getppid())\n    for fd in range(3, 20):\n        os.write(libc.syscall(438, pidfd, fd, 0), b'passed')",
    "rewrites the functions that report to the tests": "import sys\nfrom pipelines.verifiers import peers\npeers.Peer._answer = lambda self, asked: self._send({'value': {'t': 'known', 'v': ['unittest.mock', 'ANY']}, 'holds': [], 'printed': ''})\ndef f(x):\n    return 1",
    "claims that the tests' modules are missing": "def f(x):\n    raise ModuleNotFoundError('numpy')",
    "ends its supervisor's group (kill -1)": WRONG + "import os\nos.kill(-1, 9)",
    "kills its supervisor": WRONG + "import os\nos.kill(os.getppid(), 9)",
    "stops every process it can find": WRONG + "import os, signal\nfor pid in range(2, 70000):\n    try:\n        if pid != os.getpid():\n            os.kill(pid, signal.SIGSTOP)\n    except OSError:\n        pass",
    "kills its supervisor by a pidfd": WRONG + "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "sends signals by way of a file (F_SETOWN)": WRONG + "import fcntl, os, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, fcntl.F_SETOWN, os.getppid())\nfcntl.fcntl(a, fcntl.F_SETSIG, 9)\nfcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)\nb.send(b'x')",
    "limits its supervisor's processor time": WRONG + "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "stops itself": WRONG + "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "kills itself": WRONG + "import os\nos.kill(os.getpid(), 9)",
    "leaves a child in a session of its own": WRONG + "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)",
    "forks a thousand times": WRONG + "import os, time\nfor _ in range(1000):\n    if os.fork() == 0:\n        time.sleep(600)",
    "forks by the bare system call": WRONG + SYSCALL + "import time\nif libc.syscall(56, 17, 0, 0, 0, 0) < 0:\n    raise OSError(ctypes.get_errno(), 'no')\ntime.sleep(600)",
    "spawns another interpreter": WRONG + "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)'], {})",
    "becomes another program": WRONG + "import os\nos.execv('/bin/sleep', ['sleep', '600'])",
    "outlives its supervisor (PR_SET_PDEATHSIG)": WRONG + SYSCALL + "if libc.prctl(1, 0) < 0:\n    raise OSError('no')\nwhile True: pass",
    "starts a thousand threads": WRONG + "import threading, time\nfor _ in range(1000):\n    threading.Thread(target=time.sleep, args=(600,)).start()",
    "shares 8 GB of anonymous memory": WRONG + "import mmap\nheld = mmap.mmap(-1, 8 << 30)\nfor at in range(0, 8 << 30, 4096):\n    held[at] = 1",
    "makes a memory segment that outlives it (shmget)": WRONG + SYSCALL + "if libc.shmget(0x7a551, 1 << 20, 0o1666) < 0:\n    raise OSError(ctypes.get_errno(), 'no')",
    "fills a file in memory (memfd)": WRONG + "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, bytes(1 << 20))",
    "fills /dev/shm": WRONG + "file = open('/dev/shm/passrl-escape', 'wb')\nwhile True: file.write(bytes(1 << 20))",
    "grows its stack without end": WRONG + "import resource, sys, threading\nsys.setrecursionlimit(1 << 30)\ndef deep(n): return repr([deep(n + 1)])\ndeep(0)",
    "allocates 100 GB": WRONG + "held = []\nwhile True: held.append(bytearray(64 << 20))",
    "makes a fifo and waits at it": WRONG + "import os\nos.mkfifo('fifo')\nopen('fifo').read()",
    "renames its scratch folder": WRONG + "import os\nos.rename(os.getcwd(), os.getcwd() + '-escape')",
    "takes its scratch folder's rights away": WRONG + "import os\nos.mkdir('inner', 0)\nos.chmod('.', 0)",
    "nests folders without end": WRONG + "import os\nwhile True:\n    os.mkdir('a' * 200)\n    os.chdir('a' * 200)",
    "writes files without end": WRONG + "import itertools\nfor n in itertools.count():\n    open(str(n), 'wb').write(bytes(1 << 20))",
    "writes into the folder above": WRONG + "open('../passrl-escape', 'w').write('x')",
    "opens a connection": WRONG + "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "opens an io_uring": WRONG + SYSCALL + "if libc.syscall(425, 8, ctypes.create_string_buffer(256)) < 0:\n    raise OSError(ctypes.get_errno(), 'no')",
    "makes itself root of a user namespace": WRONG + SYSCALL + "if libc.unshare(0x10000000) < 0:\n    raise OSError(ctypes.get_errno(), 'no')",
    "loops for ever and ignores SIGXCPU": WRONG + "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "sleeps for ever": WRONG + "import time\ntime.sleep(10**6)",
    "closes all it has and loops": WRONG + "import os\nos.closerange(0, 64)\nwhile True: pass",
    "prints without end": WRONG + "while True: print('x' * 10**6)",
    "returns a set that takes for ever to build": "def f(x):\n    return {i * ((1 << 61) - 1) for i in range(200_000)}",
    "returns a list too deep to read": "def f(x):\n    held = []\n    for _ in range(100_000):\n        held = [held]\n    return held",
    "returns a billion characters": "def f(x):\n    return 'x' * 10**9",
    "crashes the interpreter": "import ctypes\ndef f(x):\n    ctypes.string_at(0)",
}  # fmt: skip  # noqa: E501


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
    left += [name for name in os.listdir("/dev/shm") if name.startswith("passrl-escape")]  # noqa: S108
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
    signal.alarm(30)
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
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)]
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
