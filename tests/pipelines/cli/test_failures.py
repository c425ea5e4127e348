"""How commands end: what a message is taken apart into, exit codes, and signals to real processes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pass_ops.errors import NotADatasetError, PassError
from pass_ops.support.extras import MissingExtraError
from pipelines.cli import main
from pipelines.cli.failures import ExitCode, UsageError, exit_code, failure
from pipelines.runners import JobFailed, JobSubmitted
from tests.e2e.project import Project, make_project
from tests.processes import wait_until

PASSRL = [sys.executable, "-m", "pipelines.cli.parser"]
#: command -> place and fix of its error, in a folder that holds nothing
TOLD = {
    ("status", "missing"): ("missing", "check the path"),
    ("inspect", "missing"): ("missing", "check the path"),
    ("clean", "missing"): ("missing", "check the path"),
    ("run", "missing.toml", "--out", "x"): ("missing.toml", "give the path of a TOML file"),
    ("lint", "x", "--set", "truncationn=1"): ("thresholds", None),
    ("status", "https://me:canary@host/x"): ("url", "leave it out: the store's own environment gives it"),
    ("options", "engin"): ("engin", "did you mean 'engine'?"),
    ("init", "missing/x.toml"): ("missing/x.toml", "give another path"),
}


@pytest.mark.parametrize("command", TOLD, ids=" ".join)
def test_an_error_says_place_and_fix_apart(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--json"]) == ExitCode.WRONG_INPUT
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["place"], error["fix"]) == TOLD[command]
    assert (error["fix"] or "") in error["message"]


def every_error(base: type[PassError] = PassError) -> set[type[PassError]]:
    return {base}.union(*(every_error(below) for below in base.__subclasses__()))


def test_place_and_fix_fit_every_class_and_survive_a_pickle():
    for kind in every_error():
        if kind.__init__ is PassError.__init__:  # the others have arguments of their own
            error = pickle.loads(pickle.dumps(kind("x: no; mend it", place="x", fix="mend it")))
            assert (error.args, error.place, error.fix) == (("x: no; mend it",), "x", "mend it")


def test_a_secret_in_a_message_is_hidden(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-1234")
    where = "https://me:canary@host/x"
    found = failure(PassError(f"{where}: said canary-1234; check the path", place=where, fix="not canary-1234"))
    assert "canary" not in json.dumps([found.message, found.place, found.fix])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotADatasetError("no"), 2),
        (UsageError("no", usage="", prog="passrl"), 2),
        (MissingExtraError("models", [("a", "torch")]), 2),
        (JobFailed("no", error=ValueError(), log=""), 1),
        (JobSubmitted("it runs on"), 0),
        (PassError("no"), 1),
        (ValueError("nobody expected it"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) == code


def test_an_error_that_nobody_expected_is_an_object_and_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr("pass_ops.shards.status", lambda url: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["status", "x", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["exit_code"]) == ("ZeroDivisionError", 1)


def test_several_ranks_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["status", "x", "--json"]) == ExitCode.WRONG_INPUT
    assert json.loads(capsys.readouterr().out)["error"]["fix"] == "start it without torchrun"


SLOW = """
import os, time

def verify(text, answer):
    from pipelines.verifiers.base import Verdict
    if not os.path.exists({folder!r} + "/quick"):
        open({folder!r} + "/started", "w").close()
        time.sleep(100)
    return Verdict(correct=True)
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Project:
    """Rollouts, and a verifier that takes its time until there is a file `quick`."""
    made = make_project(tmp_path_factory.mktemp("slow"), tiny_model)
    made.write("slow.py", SLOW.format(folder=str(made.folder)))
    text = Path(made.config).read_text()
    made.write("run.toml", text.replace('verifier = "number"', 'verifier = "slow:verify"\ntimeout_s = 100'))
    assert main(["generate", made.config, "--out", made.out]) == 0
    return made


def interrupted(project: Project, number: int, *more: str) -> tuple[int, str, str]:
    """A score stage at work gets a signal: its exit code and what it said."""
    command = [*PASSRL, "score", project.config, "--out", project.out, "--signal", "outcome", *more]
    started = project.folder / "started"
    started.unlink(missing_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: started.exists() or process.poll() is not None)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_ctrl_c_ends_a_stage_with_130_and_the_same_command_goes_on(slow):
    # the dataset may be there with the options of the test below, which may have come first
    code, out, err = interrupted(slow, signal.SIGINT, "--json", "--overwrite")
    assert code == ExitCode.INTERRUPTED
    assert "passrl score: interrupted; what is committed stays" in err
    error = json.loads(out)["error"]
    assert (error["kind"], error["exit_code"]) == ("KeyboardInterrupt", 130)
    assert error["fix"] == "run the same command again: it goes on from what is committed"
    (slow.folder / "quick").touch()
    assert main(["score", slow.config, "--out", slow.out, "--signal", "outcome"]) == 0
    (slow.folder / "quick").unlink()


def test_a_stage_that_is_terminated_shows_the_signal(slow):
    shell = ["sh", "-c", '"$@" & echo $! > "$0"; wait $!; echo "ended with $?"', str(slow.folder / "pid")]
    command = [*PASSRL, "score", slow.config, "--out", slow.out, "--signal", "outcome", "--overwrite"]
    started, pid = slow.folder / "started", slow.folder / "pid"
    started.unlink(missing_ok=True)
    more = ["--set", "signals.outcome.timeout_s=99"]  # another dataset than the one that is done
    with subprocess.Popen([*shell, *command, *more], stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: (started.exists() and pid.exists() and pid.read_text()) or process.poll() is not None)
        os.kill(int(pid.read_text()), signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert out.splitlines()[-1] == "ended with 143"
