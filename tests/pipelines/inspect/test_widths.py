"""What commands print fits the width they are given, on a real terminal and without one, and nothing of it is cut."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from rich.cells import cell_len

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.inspect.chunk_texts import text_decoder, texts_of
from pipelines.models.folder import tokenizer_digest
from tests.processes import shown_on

ROOT = Path(__file__).resolve().parents[3]
POLICY = str(ROOT / "pipelines" / "demo" / "assets" / "policy")
WIDTHS = [80, 120, 200]
SEQUENCE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@pytest.fixture
def run(store_run, row):
    """A group of two rollouts with many chunks, whose tokens are of the demo's vocabulary."""
    ends = list(range(2, 27, 2))
    scores = [(-1.0) ** n * n / 7 for n in range(len(ends))]
    return store_run(
        [
            row("a/0", 26, token_ids=[5] * 26, process_scores=scores, process_ends=ends, text="a long text " * 30),
            row("a/1", 26, token_ids=[6] * 26, process_scores=scores[::-1], process_ends=ends, outcome_reward=0.0),
        ],
        carried={"tokenizer_digest": tokenizer_digest(POLICY)},
    )


def questions(url: str) -> dict[str, list[str]]:
    """Commands that print tables of this run."""
    return {
        "inspect": ["inspect", f"{url}/round-000/shaped"],
        "inspect --rollout": ["inspect", f"{url}/round-000/shaped", "--rollout", "0"],
        "explain": ["explain", url, "a/0"],
        "status": ["status", url],
        "diff": ["diff", url, url],
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ["inspect", "inspect --rollout", "explain", "status", "diff"])
def test_no_line_is_wider_than_columns_says_and_no_sequence_is_written(run, capsys, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(questions(run.url)[command]) == 0
    shown = capsys.readouterr().out
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    assert "…" not in shown  # rich's mark of a cell that it cut


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_is_there_at_every_width(run, capsys, monkeypatch, width):
    def words(columns: int) -> set[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["explain", run.url, "a/0"]) == 0
        return set(capsys.readouterr().out.split())

    assert {word for word in words(400) if re.fullmatch(r"-?\d+\.\d+", word)} <= words(width)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_real_terminal_is_as_wide_as_it_says(run, width):
    shown = on_a_terminal(["explain", run.url, "a/0"], width=width)
    assert "Pooled over the group" in shown
    assert SEQUENCE.search(shown)  # headings are bold there
    lines = SEQUENCE.sub("", shown).splitlines()
    assert max(cell_len(line.rstrip("\r")) for line in lines) <= width


def on_a_terminal(arguments: list[str], *, width: int) -> str:
    """What `passrl` writes to a terminal of so many columns."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-c", "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen(
        [*command, *arguments], cwd=ROOT, stdin=follower, stdout=follower, stderr=follower,
        env=environment | {"TERM": "xterm-256color"},
    ) as process:  # fmt: skip
        os.close(follower)
        shown = shown_on(leader)
        assert process.wait(120) == 0, shown.decode()
    os.close(leader)
    return shown.decode()


def test_each_chunk_has_its_text_beside_its_numbers(run, capsys, monkeypatch):
    decode = text_decoder(open_dataset(f"{run.url}/round-000/shaped"), tokenizer=POLICY).decode
    assert decode is not None
    said = decode((5, 5))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["inspect", f"{run.url}/round-000/shaped", "--rollout", "0", "--tokenizer", POLICY]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines if line[:1] == ["13"]] == [said]
    assert main(["explain", run.url, "a/0", "--tokenizer", POLICY]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines if line[:2] == ["13", "24-25"]] == [said]


def test_another_tokenizer_shows_no_text_and_says_why(run, capsys):
    assert main(["explain", run.url, "a/0", "--tokenizer", POLICY.replace("policy", "prm")]) == 0
    assert "holds another tokenizer now" in capsys.readouterr().out
    assert main(["explain", run.url, "a/0"]) == 0
    assert "give --tokenizer FOLDER" in capsys.readouterr().out


def test_a_character_of_several_tokens_is_in_the_chunk_of_its_last():
    def decode(ids: tuple[int, ...]) -> str:
        return bytes(ids).decode(errors="replace")

    ids = list("aäb".encode())
    assert texts_of(ids, [2, 4], decode=decode) == ["a", "äb"]
    assert "".join(texts_of([*ids, 0xC3], [1, 2, 5], decode=decode)) == "aäb\N{REPLACEMENT CHARACTER}"
