"""A secret goes nowhere: it is refused where it is written down, and never repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pass_ops.support.importing import load_object
from pass_ops.support.secrecy import hidden, literal_secrets, url_secret
from pipelines.cli.parser import main
from pipelines.options import ConfigError, resolved_flags
from pipelines.runners import RunnerOptions
from pipelines.runs.config import RunConfig
from pipelines.signals import SIGNALS, build_signal
from trainer.option_class import nested_class

CANARY = "canary9x7"
IN_A_URL = (f"https://me:{CANARY}@host/x", f"https://{CANARY}@host/x", f"s3://key:{CANARY}@bucket/x",
            f"https://host/x?key={CANARY}", f"https://host/x?a=1&X-Amz-Signature={CANARY}",
            f"simplecache::s3://a:{CANARY}@b/x")  # fmt: skip
IN_A_TABLE = ({"api_key": CANARY}, {"deep": {"er": {"password": CANARY}}}, {"list": [{"access_token": CANARY}]},
              {"headers": {"Authorization": f"Bearer {CANARY}"}}, {"X-API-Key": CANARY}, {"awsSecretAccessKey": CANARY},
              {"endpoint": f"https://me:{CANARY}@host"}, {"credentials": [CANARY]},
              {"client_secret": {"value": CANARY}})  # fmt: skip
IN_FLAGS = ([f"--s3_secret_access_key={CANARY}"], ["--password", CANARY], [f"--jdbc=jdbc:x://h?password={CANARY}"],
            [f"--artifact=https://me:{CANARY}@host"], [f'--environment_config={{"env": {{"HF_TOKEN": "{CANARY}"}}}}'],
            [f"--sdk_env=HF_TOKEN={CANARY}"])  # fmt: skip


CHECKS = {"_reference": (CANARY,), "_without_credentials": IN_A_URL, "_without_secrets": IN_A_TABLE,
          "_without_secret_flags": IN_FLAGS}  # fmt: skip


def planted(cls: type, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key of each option that may hold a secret, those of the class's sections too, with every form of one."""
    for name, field in cls.__pydantic_fields__.items():
        declared, place = f"{field.annotation} {field.metadata}", f"{path}{name}"
        values = [value for check, forms in CHECKS.items() if f"{check} at" in declared for value in forms]
        yield from ((place, value) for value in values)
        inner = None if values else nested_class(field.annotation)
        if inner is not None and hasattr(inner, "__pydantic_fields__"):
            yield from planted(inner, f"{place}.NAME." if "Mapping" in declared else f"{place}.")


OF_RUN = list(planted(RunConfig))
OF_SIGNALS = [(name, *found) for name, target in SIGNALS.items() for found in planted(load_object(target))]


def toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def test_the_walk_finds_what_can_hold_one():
    found = {key for key, _ in OF_RUN}
    assert {"prompts.source", "policy.model", "engine.url", "engine.extra", "engine.pooling", "runner.flags",
            "generate.sampling.extra", "generate.program_options", "signals",
            "eval.benchmarks.NAME.source"} <= found  # fmt: skip
    of_signals = {(name, key) for name, key, _ in OF_SIGNALS}
    assert {("judge", "api_key"), ("judge", "url"), ("judge", "cache"), ("outcome", "verifier_options"),
            ("judge", "engine.extra"), ("execution", "checker_options")} <= of_signals  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OF_RUN, ids=[f"{key}-{n}" for n, (key, _) in enumerate(OF_RUN)])
def test_a_literal_secret_in_a_configuration_is_refused_and_not_repeated(project, capsys, key, value):
    if key == "signals":
        key, value = "signals.s", {"signal": "format", "pattern": "a", "function_options": value}
    override = f"{key.replace('NAME', 'b')}={toml(value)}"
    given = ["--set", "eval.benchmarks.b.source='prompts.jsonl'", "--set", override]
    for command in (["run", project.config, "--out", project.out, "--dry-run", *given],
                    ["generate", project.config, "--out", project.out, *given]):  # fmt: skip
        assert main(command) == 2, override
        shown = capsys.readouterr()
        assert CANARY not in shown.out + shown.err
        assert any(said in shown.err for said in ("env:NAME", "holds a user", "holds the secret")), shown.err
    assert not Path(project.out).exists()


@pytest.mark.parametrize(
    ("name", "key", "value"), OF_SIGNALS, ids=[f"{name}.{key}-{n}" for n, (name, key, _) in enumerate(OF_SIGNALS)]
)
def test_a_literal_secret_in_a_signals_options_is_refused_and_not_repeated(name, key, value):
    first, *rest = key.split(".")
    for part in reversed(rest):
        value = {part: value}
    with pytest.raises(ValueError, match=r"env:NAME|holds ") as error:
        build_signal(name, {first: value})
    assert CANARY not in str(error.value)


@pytest.mark.parametrize("flags", IN_FLAGS)
def test_flags_behind_the_two_dashes_are_refused_alike(project, capsys, flags):
    assert main(["run", project.config, "--out", project.out, "--dry-run", "--", *flags]) == 2
    shown = capsys.readouterr().err
    assert CANARY not in shown
    assert "env:NAME" in shown


def test_a_flag_may_name_a_variable_which_only_the_runner_sees(monkeypatch):
    monkeypatch.setenv("S3_KEY", CANARY)
    options = RunnerOptions(flags=["--s3_secret_access_key=env:S3_KEY", "--direct_num_workers=1"])
    assert CANARY not in repr(options)
    assert resolved_flags(options.flags) == (f"--s3_secret_access_key={CANARY}", "--direct_num_workers=1")
    monkeypatch.delenv("S3_KEY")
    with pytest.raises(ConfigError, match=r"runner\.flags: the environment variable S3_KEY is not set"):
        resolved_flags(options.flags)


@pytest.mark.parametrize("url", IN_A_URL)
@pytest.mark.parametrize("command", ["verify", "status", "inspect", "finalize", "lint", "clean", "run"])
def test_a_url_on_the_command_line_is_refused_and_not_repeated(project, capsys, command, url):
    rest = [project.config, "--out", url] if command == "run" else [url]
    assert main([command, *rest]) == 2
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err


def test_a_misspelled_flag_is_not_repeated(capsys):
    with pytest.raises(SystemExit):
        main(["run", "a.toml", "--out", "x", f"--api-key={CANARY}"])
    assert CANARY not in capsys.readouterr().err


def test_what_the_environment_gives_is_in_no_file_and_no_output(project, capsys, monkeypatch):
    monkeypatch.setenv("S3_SECRET", CANARY)
    flags = ["--set", "runner.flags=['--s3_secret_access_key=env:S3_SECRET']"]
    assert main(["run", project.config, "--out", project.out, *flags]) == 0
    assert main(["run", project.config, "--out", project.out, "--dry-run", *flags]) == 0
    for question in ("status", "verify", "inspect"):
        main([question, project.out, "--json"])
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    assert "env:S3_SECRET" in shown.out
    for file in Path(project.out).rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file
    assert "env:S3_SECRET" in (Path(project.out) / "round-000/rollouts/_run.json").read_text()


@pytest.mark.parametrize(
    "text",
    ["step_token", "stop_token_ids", "tokens = 5", "the answer: 42", "s3://bucket/a@b", "github://org:repo@sha/x",
     "signals.judge: api_key: secrets are given as env:NAME only", "api_key=env:MY_KEY"],
)  # fmt: skip
def test_what_is_no_secret_is_shown(text):
    assert hidden(text) == text
    assert url_secret(text) is None
    assert list(literal_secrets({"step_token": text, "text": text})) == []
