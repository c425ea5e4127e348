"""A reader that stops reading is no failure of the command."""

from __future__ import annotations

import subprocess
import sys


def test_a_reader_that_has_had_enough_ends_the_command_in_silence():
    command = [sys.executable, "-c", "from pipelines.cli import main; raise SystemExit(main(['options']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before the first line is written: the command is still importing
        said = process.stderr.read()
        assert (process.wait(), said) == (0, b"")
