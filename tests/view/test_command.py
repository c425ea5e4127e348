"""`passrl view` as a user calls it."""

from __future__ import annotations

import json

from pipelines.cli import main
from tests.view.reading import parse


def test_the_command_writes_a_file_and_says_what_is_in_it(store_run, row, tmp_path, capsys):
    run = store_run([row("a/0", 3), row("a/1", 3, outcome_reward=0.0)])
    out = tmp_path / "credit.html"
    assert main(["view", run.url, "--out", str(out), "--grid", "k=0,1", "--truth", "steps"]) == 0
    told = capsys.readouterr()
    assert f"wrote {out}" in told.out + told.err
    assert "Make the file again with --tokenizer" in told.out + told.err
    head, _, _ = parse(out.read_bytes())
    assert [setting["name"] for setting in head["settings"]] == ["shaped", "k=0", "k=1"]
    assert main(["view", run.shaped.url, "--out", str(out), "--groups", "a", "--title", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["bytes"]) == (str(out), out.stat().st_size)
    assert told["sampling"]["groups"] == 1


def test_what_cannot_be_shown_is_refused_before_anything_is_written(store_run, row, tmp_path, capsys):
    run = store_run([row("a/0", 3)])
    out = tmp_path / "credit.html"
    for arguments, said in (
        (["--groups", "b"], "has no group 'b'"),
        (["--run", str(tmp_path)], "so it is no RUN"),
        (["--max-tokens", "0"], "max_tokens"),
        (["--grid", "kk=1"], "did you mean 'k'"),
        (["--truth", "nothing"], "nothing"),
        (["--tokenizer", str(tmp_path / "none")], "none"),
        (["--out", str(tmp_path / "no" / "credit.html")], "does not exist"),
    ):
        assert main(["view", run.url, "--out", str(out), *arguments]) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()
