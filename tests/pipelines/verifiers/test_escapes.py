"""What programs get that would rather not be tested: wrong, each for itself, as root and as another user."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("escapes.py")
NOBODY = 65534

WAYS = [
    pytest.param(False, False, id="this user"),
    pytest.param(False, True, id="this user, without Landlock"),
    pytest.param(True, False, id="another user"),
    pytest.param(True, True, id="another user, without Landlock"),
]


@pytest.mark.parametrize(("as_nobody", "without_landlock"), WAYS)
def test_every_escape_is_wrong_and_costs_nobody_else_anything(as_nobody: bool, without_landlock: bool) -> None:
    found = report(as_nobody, without_landlock)
    assert found["isolation"] == "seccomp" if without_landlock else found["isolation"].endswith("seccomp")
    assert found["user"] == NOBODY if as_nobody else found["user"] == os.getuid()
    assert len(found["escapes"]) >= 25
    assert {name: verdict for name, verdict in found["escapes"].items() if verdict != ["ok", 0.0]} == {}
    assert [verdict for verdict in found["honest"] if verdict != ["ok", 1.0]] == []
    assert found["left"] == []


@cache
def report(as_nobody: bool, without_landlock: bool) -> dict:
    command = [sys.executable, str(SCRIPT), *(["--without-landlock"] if without_landlock else [])]
    if as_nobody:
        if os.getuid() != 0:
            pytest.skip("only root can become another user")
        command = [*_nobodys_view(), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd="/")
    if as_nobody and "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _nobodys_view() -> list[str]:
    """Become nobody, where this interpreter and this project can be read although they may lie in root's home."""
    needed = {sys.base_prefix, sys.prefix, sysconfig.get_path("stdlib"), str(ROOT)}
    lines = ["set -e", "mount --make-rprivate /"]
    for folder in sorted({closed for path in needed if (closed := _closed_folder(path))}):
        inside = sorted(path for path in needed if path.startswith(f"{folder}/"))
        for number, path in enumerate(inside):
            lines.append(
                f"mkdir -p /tmp/passrl-view/{number}; mount --bind {shlex.quote(path)} /tmp/passrl-view/{number}"
            )
        lines.append(f"mount -t tmpfs -o mode=755 view {shlex.quote(folder)}")
        for number, path in enumerate(inside):
            lines.append(f"mkdir -p {shlex.quote(path)}; mount --bind /tmp/passrl-view/{number} {shlex.quote(path)}")
    lines.append(f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-all "$@"')
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh"]


def _closed_folder(path: str) -> str | None:
    """The first folder on the way to a path that others may not enter."""
    on_the_way = [*reversed(Path(path).parents), Path(path)]
    return next((str(one) for one in on_the_way if not one.stat().st_mode & 0o001), None)
