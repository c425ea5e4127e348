"""Bad input: one screen with the fact, the place and the fix; exit code 2; nothing half-written taken for whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.cli.parser import main


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.splitlines()) < 20
    return shown


def test_an_unreadable_prompt_file(project, capsys):
    shown = refused(capsys, "run", project.config, "--out", project.out, "--set", "prompts.source=absent.jsonl")
    assert "absent.jsonl" in shown


def test_an_empty_prompt_file(project, capsys):
    project.write("prompts.jsonl", "")
    assert "prompts.jsonl" in refused(capsys, "run", project.config, "--out", project.out)


def test_a_duplicate_prompt_id_names_both_lines(project, capsys):
    row = json.dumps({"prompt_id": "same", "prompt": "1+1=", "answer": "2"})
    project.write("prompts.jsonl", f"{row}\n{row}\n")
    shown = refused(capsys, "run", project.config, "--out", project.out)
    assert "'same'" in shown
    assert ":1" in shown
    assert ":2" in shown


def test_a_missing_model_folder(project, capsys):
    shown = refused(capsys, "run", project.config, "--out", project.out, "--set", "policy.model=nowhere/model")
    assert "Model nowhere/model is no folder here" in shown


def test_a_teacher_with_another_vocabulary(project, capsys, tiny_model_factory):
    project.write(
        "run.toml",
        Path(project.config).read_text()
        + f'[signals.teacher]\nsignal = "logprobs"\nmodel = "{tiny_model_factory(seed=5, characters="0123456789")}"\n',
    )
    assert main(["generate", project.config, "--out", project.out]) == 0
    shown = refused(capsys, "score", project.config, "--out", project.out, "--signal", "teacher")
    assert "another vocabulary" in shown


def test_a_stale_input_is_named(project, capsys):
    for stage in ("generate", "score"):
        assert main([stage, project.config, "--out", project.out]) == 0
    assert main(["generate", project.config, "--out", project.out, "--overwrite", "--set", "run.seed=9"]) == 0
    shown = refused(capsys, "shape", project.config, "--out", project.out)
    assert "signals/" in shown


def test_an_unknown_key_is_answered_with_the_nearest(project, capsys):
    assert "did you mean 'k'?" in refused(capsys, "run", project.config, "--out", project.out, "--set", "shape.kk=1")


def test_an_unknown_signal_is_answered_with_the_nearest(project, capsys):
    shown = refused(capsys, "score", project.config, "--out", project.out, "--set", "signals.x.signal=outcom")
    assert "'outcome'" in shown


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_unknown_option_of_a_signal_is_found_before_anything_is_made(project, capsys, dry):
    wrong = ("--set", "signals.typo={signal='format', patern='x'}")
    shown = refused(capsys, "run", project.config, "--out", project.out, *wrong, *dry)
    assert "did you mean 'pattern'?" in shown
    assert not Path(project.out).exists()


def test_signals_that_read_each_other_are_refused(project, capsys):
    options = ["--set", "signals.a.signal=opd", "--set", "signals.a.teacher=a"]
    assert "circle" in refused(capsys, "score", project.config, "--out", project.out, *options)


@pytest.mark.parametrize("option", ["shape.process", "eval.outcome"])
def test_a_name_that_is_no_signal_is_found_before_anything_runs(project, capsys, option):
    shown = refused(capsys, "run", project.config, "--out", project.out, "--set", f"{option}=stepz")
    assert f"{option} is 'stepz', but [signals] has outcome, format, steps" in shown
    assert not Path(project.out).exists()


def test_an_unknown_runner_flag(project, capsys):
    shown = refused(capsys, "generate", project.config, "--out", project.out, "--", "--no_such_flag=1")
    assert "no_such_flag" in shown


def test_a_folder_that_is_no_dataset(tmp_path, capsys):
    for command in ("verify", "status", "inspect", "finalize"):
        assert str(tmp_path) in refused(capsys, command, str(tmp_path))


def test_training_on_an_incomplete_dataset(project, capsys):
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out]) == 0
    for manifest in Path(project.out, "round-000", "shaped").glob("_manifest-*"):
        manifest.unlink()
    assert "finalize" in refused(capsys, "train", project.config, "--out", project.out)


def test_a_prompt_beyond_the_context_is_set_aside_counted_and_shown(project, capsys):
    rows = [{"prompt": "1+1=", "answer": "2"} for _ in range(9)] + [{"prompt": "1" * 600, "answer": "1"}]
    project.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    assert main(["generate", project.config, "--out", project.out, "--set", "operations.max_reject_rate=0.2"]) == 0
    assert "rejected: 1 x prompt_too_long" in capsys.readouterr().err
    assert main(["verify", project.out]) == 0


def test_prompts_too_long_for_the_context_are_refused_before_anything_is_made(project, capsys):
    rows = [{"prompt": "1" * 600, "answer": "1"} for _ in range(3)] + [{"prompt": "1+1=", "answer": "2"}]
    project.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert "prompt_too_long" in refused(capsys, "generate", project.config, "--out", project.out)
    assert not Path(project.out).exists()


def test_too_many_rejects_stop_the_round_with_exit_code_1(project, capsys):
    project.write("moody.py", "async def play(prompt, sample):\n    raise RuntimeError('not today')\n")
    assert main(["generate", project.config, "--out", project.out, "--set", "generate.program=moody:play"]) == 1
    assert "program_error 30" in capsys.readouterr().err
    assert not list(Path(project.out).rglob("rollouts/_manifest-*"))


@pytest.mark.parametrize("stage", ["rollouts", "signals/outcome", "shaped"])
def test_a_full_disk_stops_the_job_and_the_rerun_completes(project, capsys, monkeypatch, stage):
    from pass_ops.shards import store

    real = store.Store.create

    def full(self, name, content):
        if stage in self.root and name.startswith("part-000001"):
            raise OSError(28, "No space left on device", name)
        return real(self, name, content)

    monkeypatch.setattr(store.Store, "create", full)
    assert main(["run", project.config, "--out", project.out]) == 1
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["run", project.config, "--out", project.out]) == 0
    assert main(["verify", project.out]) == 0
    shutil.rmtree(project.out)
