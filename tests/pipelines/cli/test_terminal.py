"""Nothing that a model, a file's name or an error says reaches a terminal as a command."""

from __future__ import annotations

import io
import json
import logging
import re
from contextlib import suppress

import pyarrow as pa
import pytest

from pass_ops import shards
from pipelines.cli.parser import main
from pipelines.runs.progress import GuardedConsole, Reporter
from pipelines.runs.terminal import Guarded, GuardedFormatter, escaped, show_traceback

ATTACKS = {
    "escape": "\x1b[2J\x1b[1;1H", "title": "\x1b]0;owned\x07", "link": "\x1b]8;;x\x1b\\", "C1 CSI": "\x9b31m",
    "C1 OSC": "\x9d0;x\x9c", "return": "good\rbad", "backspace": "bad\x08\x08\x08", "bell": "\x07", "delete": "\x7f",
    "null": "a\0b", "form feed": "\x0c", "override": "\u202etxt.exe", "isolate": "\u2066x\u2069", "mark": "\u200f",
    "separator": "a\u2028b",
}  # fmt: skip
HOSTILE = "".join(ATTACKS.values())
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_commands_a_terminal_is_written_out(attack):
    shown = escaped(f"before {attack} after\tand\nnext ä 問 😀")
    assert not FORBIDDEN.search(shown)
    assert shown.endswith(" after\tand\nnext ä 問 😀")
    assert escaped(shown) == shown


def test_half_a_pair_is_written_out():
    assert escaped("a\ud83d") == "a\\ud83d"


def test_json_stays_json():
    stream = io.StringIO()
    Guarded(stream).write('{"text": "a\x9b31m\u202eb"}')
    assert json.loads(stream.getvalue()) == {"text": "a\x9b31m\u202eb"}


def test_a_console_writes_its_own_sequences_only():
    stream = io.StringIO()
    console = GuardedConsole(file=stream, force_terminal=True, color_system="truecolor", width=200)
    console.print(HOSTILE, style="bold red")
    plain = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert plain != stream.getvalue()
    assert not FORBIDDEN.search(plain)


def test_markup_in_a_text_is_text(capsys):
    Reporter().line("round 0: [red]evaluate[/red] [/] :smile:")
    assert "[red]evaluate[/red] [/] :smile:" in capsys.readouterr().out


def test_logs_are_guarded_and_keep_secrets(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-1234")
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s canary-1234 https://me:pw@host", (HOSTILE,), None)
    shown = GuardedFormatter("%(message)s").format(record)
    assert not FORBIDDEN.search(shown)
    assert "canary" not in shown
    assert "me:pw" not in shown


def test_a_traceback_is_guarded_too(capsys):
    error = RuntimeError(f"{HOSTILE} https://me:canary@host")
    show_traceback(RuntimeError, error, None)
    shown = capsys.readouterr().err
    assert shown.startswith("RuntimeError: ")
    assert not FORBIDDEN.search(shown)
    assert "canary" not in shown


@pytest.fixture
def hostile(tmp_path) -> str:
    """A dataset of rollouts whose text, ids and folder attack the terminal."""
    folder = tmp_path / f"run{ATTACKS['escape']}" / "rollouts"
    carried = {"sampling": {"group_size": 1, "temperature": 1.0}, "round": 0, "policy_digest": "d"}
    spec = shards.DatasetSpec(stage="generate", stage_version=1, options={"x": HOSTILE}, parts=1, carried=carried)
    dataset = shards.create_dataset(str(folder), spec)
    row = {
        "group_id": f"g{ATTACKS['title']}", "sample_index": 0, "rollout_id": f"g{ATTACKS['title']}/0",
        "prompt_token_ids": [1], "token_ids": [1], "text": f"{HOSTILE}[/bold]", "behavior_logprobs": [-1.0],
        "loss_mask": [True], "finish_reason": "stop", "seed": 1, "answer": HOSTILE,
    }  # fmt: skip
    shards.commit_part(dataset, 0, pa.Table.from_pylist([row], schema=shards.ROLLOUTS))
    shards.finalize(dataset)
    return str(folder)


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", ["inspect", "status", "verify", "finalize", "lint"])
def test_commands_show_hostile_data_harmlessly(hostile, capsys, command, more):
    main([command, hostile, *more])
    shown = capsys.readouterr()
    assert not FORBIDDEN.search(shown.out + shown.err)
    if more:
        json.loads(shown.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", f"absent{HOSTILE.replace(chr(0), '')}"],
        ["run", f"absent{HOSTILE.replace(chr(0), '')}.toml", "--out", "x"],
        ["explain", "x", "y", "--name", HOSTILE],
        ["status", HOSTILE.replace("\0", ""), "--no-such-flag", HOSTILE],
        [HOSTILE],
    ],
)
def test_errors_repeat_hostile_arguments_harmlessly(capsys, arguments):
    with suppress(SystemExit):
        assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown
    assert not FORBIDDEN.search(shown)
