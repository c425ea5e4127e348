"""Temporary folders that say whose they are, so that those of a killed process can be told from those in use."""

from __future__ import annotations

import os
import re

_NAME = re.compile(r"passrl-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>\d+)-\w+")


def temporary_prefix() -> str:
    """What the name of this process's temporary folders begins with: its pid namespace, its pid and its start.

    The start, in clock ticks since boot, tells it from a later process with the same pid.
    """
    return f"passrl-{_namespace()}-{os.getpid()}-{_started(os.getpid()) or 0}-"


def is_abandoned(name: str) -> bool:
    """Whether a folder of this name belonged to a process of this pid namespace that lives no more.

    False for folders of other namespaces (containers that share the folder): nothing is known of their processes.
    """
    found = _NAME.fullmatch(name)
    if found is None or int(found["namespace"]) != _namespace() or found["started"] == "0":
        return False
    return _started(int(found["pid"])) != int(found["started"])


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
