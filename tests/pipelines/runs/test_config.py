from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pass_ops import Standardizers
from pipelines.options import ConfigError, Secret, as_dict, build, secret
from pipelines.options.overrides import apply_override, parse_grid
from pipelines.prompts.stage import SourceNotFoundError, read_prompts
from pipelines.runs.config import RunConfig, load_config

MINIMAL = '[prompts]\nsource = "prompts.jsonl"\n[policy]\nmodel = "tiny"\n'


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "run.toml"
        file.write_text(text)
        return file

    return write


def test_a_minimal_file_gives_the_defaults_of_the_paper(write):
    config = load_config(write(MINIMAL))
    assert (config.shape.estimator, config.shape.k, config.shape.weights.process) == ("pass", 0.7, 1.0)
    assert (config.train.lr, config.train.clip_low, config.train.warmup_steps) == (1e-6, 0.2, 20)
    assert config.eval is None


def test_the_contracts_option_names_are_the_configurations(write):
    text = (
        MINIMAL
        + '[shape]\nestimator="reward_shaping"\nsignal="kl"\nk=0.3\neta=0.1\nchunk=false\nstd_ddof=0\nstd_eps=0.5\n'
    )
    shape = load_config(write(text + "[shape.weights]\nprocess=2.0\noutcome=0.5\nformat=0\n")).shape
    assert (shape.estimator, shape.signal, shape.k, shape.eta, shape.chunk) == ("reward_shaping", "kl", 0.3, 0.1, False)
    assert (shape.std_ddof, shape.std_eps, shape.weights.format) == (0, 0.5, 0.0)


@pytest.mark.parametrize(("given", "told"), [("limit=2", "limit is 2"), ('ids=["a", "b"]', "ids is a list of 2")])
def test_a_second_answer_to_which_prompts_a_round_takes_is_refused(write, given, told):
    file = write(MINIMAL)
    assert load_config(file, [f"prompts.{given}"]).run.prompts_per_round is None
    with pytest.raises(ConfigError, match=f"prompts.{told}, but run.prompts_per_round is 4"):
        load_config(file, [f"prompts.{given}", "run.prompts_per_round=4"])


def test_an_estimator_may_be_an_import_path(write):
    text = MINIMAL + f'[shape]\nestimator = "{__name__}:own"\n'
    assert load_config(write(text)).shape.estimator == f"{__name__}:own"


def own(group, config):
    return [[0.0] * len(mask) for mask in group.mask]


def test_an_operator_per_stream_is_a_table(write):
    text = MINIMAL + '[shape.standardize]\nprocess = "abs_max"\n'
    assert load_config(write(text)).shape.standardize == Standardizers(process="abs_max")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[shape]\nkk = 1\n", "shape.kk: unknown key; did you mean 'k'?"),
        ("[shape]\nestimator = 'grpo'\n", "shape: option estimator: unknown value 'grpo'; the choices are 'pass', "),
        ("[shape]\nestimator = ':own'\n", "shape: option estimator: ':own' is not an import path"),
        ("[shap]\nk = 1\n", "shap: unknown key; did you mean 'shape'?"),
        (
            "[generate.sampling]\ntemprature = 1\n",
            "generate.sampling.temprature: unknown key; did you mean 'temperature'?",
        ),
        ("[run]\nseed = '8'\n", "run.seed is '8': it must be a valid integer"),
        ("[shape]\nk = 1.5\n", "k"),
        ("[engine]\nkind = 'vlm'\n", "engine.kind is 'vlm': it must be 'vllm', 'server', 'transformers' or 'recorded'"),
        ("[eval]\nsamples = 4\nk = [8]\n", "eval: k is [8], but samples is 4; pass@k needs at least k samples"),
        ("[shape]\nk = ", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(write, text, message):
    with pytest.raises(ConfigError) as error:
        load_config(write(MINIMAL + text))
    assert message in str(error.value)
    assert "run.toml" in str(error.value)


def test_every_unknown_key_is_listed_at_once(write):
    with pytest.raises(ConfigError) as error:
        load_config(write(MINIMAL + "[train]\nlearning_rat = 1\n[run]\nsed = 2\n"))
    assert "train.learning_rat" in str(error.value)
    assert "run.sed: unknown key; did you mean 'seed'?" in str(error.value)


def test_a_missing_section_is_named(write):
    with pytest.raises(ConfigError, match=r"policy: is required"):
        load_config(write('[prompts]\nsource = "a.jsonl"\n'))


def test_an_absent_file_is_no_traceback(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_paths_are_looked_up_beside_the_file_first(write, tmp_path):
    (tmp_path / "tiny").mkdir()
    config = load_config(write(MINIMAL))
    assert config.policy.model == str(tmp_path / "tiny")
    assert config.prompts.source == str(tmp_path / "prompts.jsonl")  # nowhere, so the error will say where it is missed


def test_prompts_in_the_working_directory_stay_as_written(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "prompts.jsonl").touch()
    assert load_config(write(MINIMAL)).prompts.source == "prompts.jsonl"
    assert load_config(write(MINIMAL), ["prompts.source=s3://bucket/p.jsonl"]).prompts.source == "s3://bucket/p.jsonl"


def test_prompts_that_are_gone_are_named_by_their_whole_path(write, tmp_path):
    config = load_config(write(MINIMAL))
    with pytest.raises(SourceNotFoundError, match=rf"{tmp_path}/prompts.jsonl does not exist\. Restore it"):
        read_prompts(config.prompts)


def test_overrides_come_after_the_file_and_are_typed(write):
    config = load_config(
        write(MINIMAL + "[shape]\nk = 0.1\n"), ["shape.k=0", "policy.model=other/model", "eval.k=[1, 2]"]
    )
    assert config.shape.k == 0
    assert config.policy.model == "other/model"
    assert config.eval is not None
    assert config.eval.k == (1, 2)


@pytest.mark.parametrize("override", ["shape.k", "=3", "shape..k=1", "policy.model.x=1"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(ConfigError, match="--set"):
        apply_override({"policy": {"model": "m"}}, override)


def test_the_resolved_configuration_reads_back_as_itself(write):
    config = load_config(write(MINIMAL + "[eval]\nk = [1]\n[signals.a]\nsignal = 'opd'\n"))
    assert build(RunConfig, json.loads(json.dumps(as_dict(config))), where="again") == config


@dataclass(frozen=True, kw_only=True)
class WithSecret:
    api_key: Secret = "env:NONE"
    names: tuple[str, ...] = field(default=())


def test_a_literal_secret_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as error:
        build(WithSecret, {"api_key": "sk-123"}, where="x")
    assert "api_key: secrets are given as env:NAME only" in str(error.value)
    assert "sk-123" not in str(error.value)


def test_a_literal_secret_among_a_signals_options_is_refused_and_not_repeated(write):
    text = MINIMAL + '[signals.judge]\nsignal = "my:Judge"\nstep_token = "<extra_0>"\nserver = {api_key = "sk-123"}\n'
    with pytest.raises(ConfigError) as error:
        load_config(write(text))
    assert "signals.judge: server.api_key: secrets are given as env:NAME only" in str(error.value)
    assert "sk-123" not in str(error.value)
    assert "step_token" not in str(error.value)
    assert load_config(write(text.replace("sk-123", "env:MY_KEY"))).signals["judge"]["step_token"] == "<extra_0>"


def test_a_secret_is_resolved_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-456")
    assert secret("env:MY_KEY", key="judge.api_key") == "sk-456"
    assert as_dict(WithSecret(api_key="env:MY_KEY"))["api_key"] == "env:MY_KEY"
    with pytest.raises(ConfigError, match="NOT_SET is not set"):
        secret("env:NOT_SET", key="judge.api_key")


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[3].glob("configs/*.toml")), ids=lambda file: file.name)
def test_every_shipped_configuration_loads(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = tomllib.loads(file.read_text())["prompts"]["source"]
    assert load_config(file).prompts.source == str((file.parent / written).resolve())


def test_a_grid_is_read_as_toml_values_or_plain_words():
    assert parse_grid(["k = 0, 0.7", "chunk=true", "estimator=pass,rloo"]) == {
        "k": [0, 0.7], "chunk": [True], "estimator": ["pass", "rloo"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["k"], "write it as option=value,value"),
        (["=1"], "write it as option=value,value"),
        ([" =1"], "write it as option=value,value"),
        (["k=1,,2"], "write it as option=value,value"),
        (["k=1, "], "write it as option=value,value"),
        (["k=1", "k=2"], "k is given twice"),
    ],
)
def test_a_grid_that_is_none_is_refused(texts, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(texts)
