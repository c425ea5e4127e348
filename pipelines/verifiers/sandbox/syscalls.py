"""The seccomp filter of a confined program: which system calls the kernel refuses to it. Stdlib only; Linux.

A filter needs no right and no set-up of the machine, so it holds everywhere: in containers, for root and for others.
Numbers are those of the kernel's tables for x86-64 and ARM64 (asm/unistd_64.h, asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000  # x86-64 knows every call a second time from here on
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

#: number on x86-64, number on ARM64, None = no such call there
_Numbers = tuple[int | None, int | None]

#: refused with EPERM
_REFUSED: dict[str, _Numbers] = {
    # the network (socketpair stays: it reaches nothing outside, and asyncio needs it)
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # a second process, or another program in this one
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "setsid": (112, 157),
    "setpgid": (109, 154),
    # other processes: their signals, memory, descriptors, priorities
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "sched_setaffinity": (203, 122), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # memory that outlives the process, or that no limit of the process counts
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces, mounts and the kernel's own doors
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    # what files are and whose, which Landlock does not guard
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "truncate": (76, 45), "mknod": (133, None),
    "mknodat": (259, 33),
}  # fmt: skip
#: refused besides where no Landlock guards the files: every change of a name
_CHANGES: dict[str, _Numbers] = {
    "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
}  # fmt: skip
#: answered as by an older kernel, so that the C library takes the call that can be judged by its arguments
_UNKNOWN: dict[str, _Numbers] = {"clone3": (435, 435), "openat2": (437, 437)}

# Classic BPF: instructions, and what a filter gives back
_LOAD, _EQUAL, _AT_LEAST, _MASK, _GIVE = 0x20, 0x15, 0x35, 0x54, 0x06
_KILL, _REFUSE = 0x80000000, 0x00050000
_ALLOW, _EPERM = (_GIVE, 0, 0, 0x7FFF0000), (_GIVE, 0, 0, _REFUSE | errno.EPERM)

_CLONE_THREAD = 0x10000
_MAP_SHARED_ANONYMOUS = 0x21
_O_TRUNC, _O_ACCMODE, _O_CREAT = 0o1000, 0o3, 0o100
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI = 0x8901, 0x8902, 0x5412
_SETS_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class _Rule:
    """A call judged by one argument: refused where (argument & mask) is one of values, or where it is none of them."""

    call: _Numbers
    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    refuse_others: bool = False


def known_machine() -> bool:
    """Whether the filter can be written for this machine."""
    return sys.platform == "linux" and platform.machine() in _ARCHITECTURES


def refuse_calls(*, files_guarded: bool) -> None:
    """From here on the kernel refuses these calls to this process and its threads (EPERM). Raises OSError if it cannot.

    files_guarded: Landlock says which files may be changed; without it none may.
    """
    machine = platform.machine()
    if not known_machine():
        raise OSError(f"on {sys.platform}/{machine} a program cannot be confined; run it on Linux, x86-64 or ARM64")
    program = _filter(machine, _rules(os.getpid(), files_guarded=files_guarded), files_guarded=files_guarded)
    buffer = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    given = Filter(len(program) // 8, ctypes.addressof(buffer))
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a seccomp filter, so no program can be confined")


def _rules(own_pid: int, *, files_guarded: bool) -> list[_Rule]:
    rules = [
        _Rule((56, 220), 0, (0,), mask=_CLONE_THREAD),  # clone: threads only
        _Rule((9, 222), 3, (_MAP_SHARED_ANONYMOUS,), mask=_MAP_SHARED_ANONYMOUS),  # mmap
        _Rule((157, 167), 0, (_SETS_PDEATHSIG,)),  # prctl: it cannot choose to outlive its supervisor
        _Rule((72, 25), 1, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),  # fcntl: signals to others by way of a file
        _Rule((16, 29), 1, (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI)),  # ioctl, likewise
        _Rule((302, 261), 0, (0, own_pid), refuse_others=True),  # prlimit64
    ]
    rules += [  # kill, tkill, tgkill: of itself
        _Rule(call, 0, (own_pid,), refuse_others=True) for call in ((62, 129), (200, 130), (234, 131))
    ]
    for call, argument in (((2, None), 1), ((257, 56), 2)):  # open, openat
        if files_guarded:  # Landlock before ABI 3 overlooks a truncation by a reader
            rules.append(_Rule(call, argument, (_O_TRUNC,), mask=_O_TRUNC | _O_ACCMODE))
        else:
            rules.append(_Rule(call, argument, (0,), mask=_O_TRUNC | _O_ACCMODE | _O_CREAT, refuse_others=True))
    return rules


def _filter(machine: str, rules: Sequence[_Rule], *, files_guarded: bool) -> bytes:
    """Classic BPF over struct seccomp_data: call number at 0, architecture at 4, arguments of 8 bytes from 16."""
    lines = []
    for rule in rules:
        if (number := rule.call[_column(machine)]) is None:
            continue
        count = len(rule.values)
        body = [(_LOAD, 0, 0, 16 + 8 * rule.argument), (_MASK, 0, 0, rule.mask)]
        body += [(_EQUAL, count - index, 0, value) for index, value in enumerate(rule.values)]
        body += [_ALLOW, _EPERM] if not rule.refuse_others else [_EPERM, _ALLOW]
        lines += [(_EQUAL, 0, len(body), number), *body]
    return _by_number(machine, files_guarded=files_guarded) + _packed([*lines, _ALLOW])


@cache
def _by_number(machine: str, *, files_guarded: bool) -> bytes:
    """The beginning of the filter: what the number of a call decides, the same for every process."""
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_GIVE, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32_CALLS), _EPERM]
    unknown = (_GIVE, 0, 0, _REFUSE | errno.ENOSYS)
    for calls, answer in ((_REFUSED, _EPERM), ({} if files_guarded else _CHANGES, _EPERM), (_UNKNOWN, unknown)):
        for numbers in calls.values():
            if (number := numbers[_column(machine)]) is not None:
                lines += [(_EQUAL, 0, 1, number), answer]
    return _packed(lines)


def _column(machine: str) -> int:
    return list(_ARCHITECTURES).index(machine)


def _packed(lines: Sequence[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
