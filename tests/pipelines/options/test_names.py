"""Names become folders, and sizes become memory: what cannot be one is refused with its key, from TOML and Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from pipelines.engines.base import Sampling
from pipelines.options import ConfigError
from pipelines.options.types import check_name
from pipelines.prompts.stage import PromptSource
from pipelines.rollouts.options import GenerateOptions
from pipelines.runs.config import PolicySection, RunConfig, load_config
from pipelines.runs.evaluate import EvalOptions, EvaluationError
from pipelines.runs.rounds import shape_rollouts
from pipelines.runs.run import Run

MINIMAL = '[prompts]\nsource = "prompts.jsonl"\n[policy]\nmodel = "tiny"\n'
REFUSED = (
    "", " ", ".", "..", "../prompts", "a/b", "a\\b", "/absolute", "C:\\x", ".hidden", "_done", "-x", "a\0b", "a\nb",
    "a\x1b[2J", "a*", "a[1]", "a?", "a::b", "s3://a", "a#b", "a%2Fb", "a ", "a.", "\u202eab", "a\ud83d", "x" * 101,
    "ä" * 101, "~", "a|b",
)  # fmt: skip
TAKEN = ("outcome", "held-out", "Ä1", "gsm8k (test)", "a.b", "v=2", "k,l", "x@3", "x" * 100, "問題")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_folder_is_no_name(name):
    with pytest.raises(ConfigError, match=r"^--name: .* is no name: it becomes a folder"):
        check_name(name, key="--name")


@pytest.mark.parametrize("name", TAKEN)
def test_words_of_any_language_are_names(name):
    assert check_name(name, key="--name") == name


@pytest.mark.parametrize("name", [name for name in REFUSED if "\ud83d" not in name])
def test_sections_are_refused_by_their_key(tmp_path, name):
    file = tmp_path / "run.toml"
    quoted = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' else c for c in name)
    for section in ("signals", "eval.benchmarks"):
        file.write_text(f'{MINIMAL}[{section}."{quoted}"]\nsignal = "format"\nsource = "a.jsonl"\n', encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"{section}\.(.|\n)* is no name"):
            load_config(file)


@pytest.mark.parametrize("name", ["prompts", "rollouts"])
def test_a_signal_cannot_be_called_like_what_it_reads(tmp_path, name):
    (tmp_path / "run.toml").write_text(f'{MINIMAL}[signals.{name}]\nsignal = "format"\n')
    with pytest.raises(ConfigError, match=rf"signals\.{name}: '{name}' is taken"):
        load_config(tmp_path / "run.toml")


def test_python_is_refused_alike(tmp_path):
    prompts, policy = PromptSource(source="a.jsonl"), PolicySection(model="tiny")
    with pytest.raises(ConfigError, match=r"signals\.\.\./x"):
        RunConfig(prompts=prompts, policy=policy, signals={"../x": {"signal": "format"}})
    with pytest.raises(EvaluationError, match=r"benchmarks\.a/b"):
        EvalOptions(benchmarks={"a/b": prompts})
    run = Run(config=RunConfig(prompts=prompts, policy=policy), url=str(tmp_path / "run"))
    for name in ("../rollouts", "policy", "rollouts", "eval", "eval-100", ""):
        with pytest.raises(ConfigError, match="name: "):
            shape_rollouts(run, 0, name)
    assert not Path(run.url).exists()


@pytest.mark.parametrize("command", ["shape", "sweep", "explain"])
@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\nb"])
def test_names_on_the_command_line_are_refused(capsys, command, name):
    rest = {"shape": ["run.toml"], "sweep": ["run.toml"], "explain": ["RUN", "p0/0"]}[command]
    with pytest.raises(SystemExit) as stop:
        main([command, *rest, "--name", name, *(["--out", "RUN"] if command != "explain" else [])])
    assert stop.value.code == 2
    assert "--name: " in (shown := capsys.readouterr().err)
    assert "is no name" in shown


@pytest.mark.parametrize("number", ["-1", "1.5", "9" * 7, "x", "", "\u0663", "1e3"])
def test_a_round_has_six_digits_at_most(capsys, number):
    with pytest.raises(SystemExit):
        main(["run", "run.toml", "--out", "RUN", f"--round={number}"])
    assert "is not a whole number of 0 or more, with 6 digits at most" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["nan", "1.5", "-0.1", "half"])
def test_a_share_of_rejects_above_which_nothing_lies_is_refused(capsys: pytest.CaptureFixture[str], share: str) -> None:
    with pytest.raises(SystemExit):
        main(["finalize", "RUN/rollouts", f"--max-reject-rate={share}"])
    assert f"'{share}' is not a share, a number from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key",
    ["generate.group_size", "generate.sampling.max_tokens", "generate.max_prompt_tokens", "prompts.prompts_per_part",
     "prompts.limit", "prompts.offset", "run.rounds", "run.prompts_per_round", "eval.samples", "eval.between",
     "engine.max_num_seqs", "engine.max_model_len", "engine.seed", "operations.parts_in_flight",
     "operations.max_attempts", "train.prefetch_steps", "train.decode_threads", "train.epochs",
     "train.updates"],
)  # fmt: skip
def test_no_size_is_without_end(tmp_path, key):
    (tmp_path / "run.toml").write_text(MINIMAL)
    with pytest.raises(ConfigError, match=rf"{key} is 1000000000000: it must be less than or equal to \d+"):
        load_config(tmp_path / "run.toml", [f"{key}=1000000000000"])


def test_a_part_that_could_outgrow_its_columns_is_refused_with_its_key(tmp_path):
    (tmp_path / "run.toml").write_text(MINIMAL)
    sizes = ["generate.group_size=64", "generate.sampling.max_tokens=131072"]
    assert load_config(tmp_path / "run.toml", sizes).prompts.prompts_per_part == 64
    with pytest.raises(ConfigError, match=r"prompts\.prompts_per_part: 65 prompts of 64 rollouts of up to 131072"):
        load_config(tmp_path / "run.toml", [*sizes, "prompts.prompts_per_part=65"])
    load_config(tmp_path / "run.toml", [*sizes, "prompts.prompts_per_part=65", "prompts.limit=3"])
    evaluated = ["eval.samples=64", "eval.benchmarks.b.source='a.jsonl'", "eval.benchmarks.b.prompts_per_part=65"]
    with pytest.raises(ConfigError, match=r"eval\.benchmarks\.b\.prompts_per_part: 65 prompts"):
        load_config(tmp_path / "run.toml", [*evaluated, "eval.sampling.max_tokens=131072"])


def test_a_part_is_checked_in_python_too():
    config = RunConfig(prompts=PromptSource(source="a"), policy=PolicySection(model="m"))
    with pytest.raises(ConfigError, match="int32"):
        replace(config, generate=GenerateOptions(group_size=65_536, sampling=Sampling(max_tokens=2**24)))
