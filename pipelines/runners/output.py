"""What a child process writes: to the log at level INFO, its last lines kept for the error that tells of its end."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections import deque

TAIL_LINES = 20
_LOG = logging.getLogger(__name__)


class Output:
    """The output of a process that was started with stdout=PIPE, stderr=STDOUT; read by a thread of its own."""

    def __init__(self, process: subprocess.Popen[bytes], *, name: str) -> None:
        self._process = process
        self._name = name
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._thread = threading.Thread(target=self._listen, daemon=True, name=f"output-{name}")
        self._thread.start()

    def last_words(self) -> str:
        """How the process ended, and the last lines it wrote, the very last first."""
        code = self._process.poll()
        if code is not None:
            self._thread.join(timeout=15.0)  # not for ever: a process that it left behind may hold its output open
        how = "alive" if code is None else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        *before, last = list(self._tail) or ["it wrote nothing"]
        return "\n  ".join([f"{how}: {last}", *(["before that it wrote:", *before] if before else [])])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                _LOG.info("[%s] %s", self._name, text)
