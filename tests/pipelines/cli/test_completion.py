"""Shells complete commands and arguments: the real shells, asked as somebody who presses the tab key asks them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "dumb"}
BASH = """
eval "$(passrl completion bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
_python_argcomplete passrl
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'passrl completion fish | source; complete -C "$argv[1]"'


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: apt-get install {shell}")


def asked(command: list[str], line: str) -> list[str]:
    done = subprocess.run([*command, line], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
    return [found.partition("\t")[0].strip() for found in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"), [("passrl ins", "inspect"), ("passrl verify --js", "--json"), ("passrl completion z", "zsh")]
)
def test_a_shell_completes(shell, line, offered):
    needs(shell)
    command = {"bash": ["bash", "-c", BASH, "bash"], "fish": ["fish", "--no-config", "-c", FISH]}[shell]
    assert asked(command, line) == [offered]


def test_zsh_completes(tmp_path):
    needs("zsh")
    here, there = pty.openpty()
    environment = ENVIRONMENT | {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "PS1": "ready> "}
    with subprocess.Popen(["zsh", "-f", "-i"], stdin=there, stdout=there, stderr=there, env=environment) as zsh:
        os.close(there)
        try:
            os.write(
                here, b'autoload -Uz compinit && compinit -u -D && eval "$(passrl completion zsh)"; echo se"t" up\n'
            )
            assert read_until(here, b"set up")
            os.write(here, b"passrl insp\t")
            assert read_until(here, b"passrl inspect")
        finally:
            zsh.kill()
            os.close(here)


def read_until(terminal: int, wanted: bytes) -> bool:
    """Whether a terminal shows it within two minutes."""
    shown, until = b"", time.monotonic() + 120
    while wanted not in shown and time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 4096)
    return wanted in shown
