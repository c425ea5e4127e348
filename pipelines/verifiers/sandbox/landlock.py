"""Landlock: which files a confined program may open, by the kernel's own rules that any process may set for itself.

Linux 5.13 and later, where it is switched on; no right and no namespace is needed. From ABI 4 on (Linux 6.7) it refuses
TCP too, from ABI 6 on (6.12) signals to processes outside. Stdlib only. Constants: linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from functools import cache

# The three calls have the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REGULAR, _MAKE_LINK = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
#: ABI -> the rights over files that it knows
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11
_ON_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE  # a rule for a file may name no right over folders

_READ = _READ_FILE | _READ_DIR
_CHANGE = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REGULAR | _MAKE_LINK | _REFER


@cache
def abi() -> int:
    """The version of Landlock that the kernel offers; 0 = none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict_files(*, readable: Iterable[str], changeable: Iterable[str]) -> None:
    """From here on this process opens nothing but what lies beneath these paths; a path that is not there is left out.

    Needs no_new_privs and an `abi()` over 0. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    known = _KNOWN[min(abi(), max(_KNOWN))]
    attributes = [known, *([_ALL_TCP] if abi() >= 4 else []), *([_ALL_SCOPES] if abi() >= 6 else [])]
    given = struct.pack(f"={len(attributes)}Q", *attributes)
    rules = libc.syscall(_CREATE_RULESET, given, len(given), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the kernel offers Landlock and refuses its rules")
    try:
        for paths, rights in ((readable, _READ), (changeable, _CHANGE)):
            for path in paths:
                with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                    _allow(libc, rules, path, rights & known)
        if libc.syscall(_RESTRICT_SELF, rules, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel offers Landlock and does not apply it")
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            rights &= _ON_FILES
        if libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
    finally:
        os.close(beneath)
