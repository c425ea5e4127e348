"""Every option says what it is; the schema, the starter and the shipped files agree with what loads."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from pipelines.cli import main
from pipelines.cli.reference import chosen, config_schema, sections
from pipelines.cli.starter import starter
from pipelines.options import ConfigError
from pipelines.runs.config import load_config
from pipelines.runs.evaluate import EvalOptions
from pipelines.runs.run import configured_signals
from pipelines.shaped.stage import check_streams

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted([*ROOT.glob("configs/*.toml"), *ROOT.glob("pipelines/*/*.toml")])
MINIMAL = '[prompts]\nsource = "p.jsonl"\n[policy]\nmodel = "m"\n'


@pytest.fixture(scope="module")
def validator():
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.name)
def test_every_option_says_what_it_is_and_how_it_is_written(section):
    assert section.text
    for option in section.options:
        assert re.fullmatch(r"(?s).{12,}[.)]", option.meaning), option
        known = option.default or option.required or option.example or option.type == "table"
        assert known or section.name.startswith("verifiers."), f"{option}: no example"
        for shown in filter(None, (option.default, option.example)):
            tomllib.loads(f"value = {shown}")


def test_a_signal_names_the_columns_it_writes():
    assert chosen("signals.judge")[0].columns == ("process_scores", "process_ends")
    assert chosen("signals.outcome")[0].columns == ("outcome_reward", "verify_status", "extracted_answer")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_configuration_names_the_schema_and_is_valid_by_it(file, validator):
    text = file.read_text(encoding="utf-8")
    path = re.match(r"#:schema (\S+)\n", text)
    assert path, "its first line is `#:schema PATH`"
    assert json.loads((file.parent / path[1]).read_text(encoding="utf-8")) == config_schema()
    validator.validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "wrong",
    [
        "[engin]",
        "[engine]\nkind = 'vlm'",
        "[engine]\nmax_num_seqs = 0",
        "[train]\nupdates = 2.5",
        "[train]\nlr = '1e-4'",
        "[generate.sampling]\ntemp = 1.0",
        "[shape]\nk = 1.5",
        "[shape.weights]\nproces = 1.0",
        "[signals.a]\nverifier = 'number'",
        "[signals.a]\nsignal = 'outcme'\nverifier = 'number'",
        "[signals.a]\nsignal = 'outcome'",
        "[signals.a]\nsignal = 'outcome'\nverifer = 'number'",
        "[signals.a]\nsignal = 'prm'\nmodel = 'm'\nengine = { knd = 'vllm' }",
        "[eval.benchmarks.a]\ncolumns = { promt = 'q' }\nsource = 'p.jsonl'",
    ],
)
def test_what_does_not_load_is_not_valid_by_the_schema_either(wrong, validator, tmp_path):
    validator.validate(tomllib.loads(MINIMAL))
    assert not validator.is_valid(tomllib.loads(MINIMAL + wrong))
    (tmp_path / "run.toml").write_text(MINIMAL + wrong)
    with pytest.raises(ValueError, match=r"cannot be used|no key|no signal"):
        configured_signals(load_config(tmp_path / "run.toml"))


def test_a_signal_of_ones_own_is_valid_whatever_its_options(validator):
    validator.validate(tomllib.loads(MINIMAL + "[signals.a]\nsignal = 'my_signals:Length'\nlimit = 3\n"))


def test_the_starter_loads_unchanged_and_its_comments_are_the_defaults(validator, tmp_path):
    file, bare = tmp_path / "starter.toml", tmp_path / "bare.toml"
    assert main(["init", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    config = load_config(file)
    check_streams(config.shape)
    assert list(configured_signals(config)) == ["outcome", "steps"]
    validator.validate(tomllib.loads(text))
    bare.write_text("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert load_config(bare) == config
    defaults = {f"#{o.name} = {o.default}" for section in sections() for o in section.options if o.default}
    shown = [line[1:] if line in {"#[eval]", *defaults} else line for line in text.splitlines()]
    assert len(set(shown) - set(text.splitlines())) > 50
    file.write_text("\n".join(shown))
    written_out = load_config(file)
    assert configured_signals(written_out) == configured_signals(config)
    assert replace(written_out, signals={}) == replace(config, signals={}, eval=EvalOptions())


def test_the_starter_does_not_replace_a_file(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("mine")
    assert main(["init", str(tmp_path / "mine.toml")]) == 2
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert "cannot be written (File exists)" in capsys.readouterr().err


def test_the_starter_is_short_enough_to_read():
    assert max(len(line) for line in starter().splitlines()) <= 120


def test_options_are_printed_by_section(capsys):
    assert main(["options", "generate.sampling"]) == 0
    shown = capsys.readouterr().out
    assert "temperature = 1.0" in shown
    assert "group_size" not in shown
    assert main(["options", "engine", "--json"]) == 0
    (engine,) = json.loads(capsys.readouterr().out)
    assert {"name": "kind", "default": '"vllm"'}.items() <= engine["options"][0].items()


def test_an_unknown_section_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'engine'"):
        chosen("engin")


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()
