"""One answer to a wrong option, whether it comes from TOML, `--set` or Python; building imports nobody's code."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from typing import Any

import pytest

from pass_ops import Standardizers, Weights
from pass_ops.errors import OptionError, PassError
from pipelines.engines import EngineOptions, Sampling
from pipelines.inspect.lint.findings import LintOptions
from pipelines.options import ConfigError, as_dict, build
from pipelines.options.describe import toml
from pipelines.parts.operations import Limits, Operations
from pipelines.prompts.stage import PromptSource
from pipelines.rollouts.options import GenerateOptions
from pipelines.runners import RunnerOptions
from pipelines.runs.config import RunConfig, RunSection, load_config
from pipelines.runs.evaluate import EvalOptions
from pipelines.shaped.stage import ShapeOptions
from pipelines.signals import SignalBase, SignalOptionError, build_signal
from trainer import TrainOptions

MINIMAL = '[prompts]\nsource = "p.jsonl"\n[policy]\nmodel = "m"\n'


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        (tmp_path / "run.toml").write_text(MINIMAL + text)
        return tmp_path / "run.toml"

    return write


@pytest.mark.parametrize(
    ("section", "cls", "key", "value", "problem"),
    [
        ("train", TrainOptions, "lr", math.inf, "is inf: it must be a finite number"),
        ("train", TrainOptions, "updates", 2.5, "is 2.5: it must be a valid integer"),
        ("train", TrainOptions, "learning_rate", 1e-4, ": unknown key; did you mean 'lr'?"),
        ("generate.sampling", Sampling, "temp", 1.0, ": unknown key; did you mean 'temperature'?"),
        ("generate.sampling", Sampling, "temperature", "1.0", "is '1.0': it must be a valid number"),
        ("generate.sampling", Sampling, "temperature", 0.001, ": it must be 0 (greedy) or at least 0.01, not 0.001"),
        ("engine", EngineOptions, "knd", "vllm", ": unknown key; did you mean 'kind'?"),
        ("engine", EngineOptions, "url", "http://me:pw@host", ": holds a user or password; leave them out"),
        ("engine", EngineOptions, "extra", {"api_key": "sk-1"}, ": api_key: secrets are given as env:NAME only"),
        ("generate", GenerateOptions, "groupsize", 8, ": unknown key; did you mean 'group_size'?"),
        ("generate", GenerateOptions, "group_size", True, "is True: it must be a valid integer"),
        ("shape", ShapeOptions, "chunk", "no", "is 'no': it must be a valid boolean"),
        ("shape", ShapeOptions, "k", 1.5, "is 1.5: it must be less than or equal to 1"),
        ("runner", RunnerOptions, "name", "spark", "is 'spark': it must be 'dataflow', 'direct', 'flink' or 'prism'"),
        ("runner", RunnerOptions, "resources", {"gpu": "1"}, ".gpu: unknown key; choose one of 'accelerator'"),
        ("operations", Limits, "max_reject_rate", 5, "is 5: it must be less than or equal to 1"),
        ("run", RunSection, "rounds", -1, "is -1: it must be greater than or equal to 1"),
        ("eval", EvalOptions, "samples", 0, "is 0: it must be greater than or equal to 1"),
    ],
)
def test_toml_set_and_python_give_one_answer(write, section, cls, key, value, problem):
    written = "inf" if value == math.inf else toml(value)
    told = f"{key}{problem}" if problem[0] in ":." else f"{key} {problem}"
    for configuration, overrides in ((f"[{section}]\n{key} = {written}\n", []), ("", [f"{section}.{key}={written}"])):
        with pytest.raises(ConfigError) as refused:
            load_config(write(configuration), overrides)
        assert f"{section}.{told}" in str(refused.value)
    with pytest.raises(PassError) as refused:
        cls(**{key: value})
    assert isinstance(refused.value, ValueError)
    assert f"{cls.__name__}: {told}" in str(refused.value)


def test_a_secret_is_in_no_message(write):
    for text in ('[engine]\nextra = {api_key = "sk-1"}', '[engine]\nurl = "http://me:sk-1@host"',
                 '[signals.a]\nsignal = "judge"\nmodel = "m"\napi_key = "sk-1"'):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            load_config(write(text))
        assert "sk-1" not in str(refused.value)
    with pytest.raises(SignalOptionError) as refused_signal:
        build_signal("judge", {"model": "m", "api_key": "sk-1"})
    assert "sk-1" not in str(refused_signal.value)


def test_a_choice_or_a_table_is_told_by_what_was_given(write):
    for given, problem in (
        ('"foo"', "shape.standardize is 'foo': it must be 'masked_norm', "),
        ('{ process = "foo" }', "shape.standardize.process is 'foo': it must be 'masked_norm', "),
        ('{ proces = "none" }', "shape.standardize.proces: unknown key; did you mean 'process'?"),
    ):
        with pytest.raises(ConfigError) as refused:
            load_config(write(f"[shape]\nstandardize = {given}\n"))
        (line,) = str(refused.value).splitlines()[1:]
        assert problem in line


@pytest.mark.parametrize(
    "made",
    [
        Sampling(stop=["a"], extra={"bad_words": ["b"]}),
        EngineOptions(kind="server", url="http://host:1"),
        PromptSource(source="p", columns={"prompt": "q"}, extra=["a"]),
        GenerateOptions(sampling=Sampling(temperature=0), program="calculator"),
        ShapeOptions(process="a", standardize=Standardizers(process="none"), weights=Weights(format=0)),
        EvalOptions(k=[1], benchmarks={"a": PromptSource(source="p")}),
        RunnerOptions(flags=["--a"], resources={"min_ram": "1GB"}),
        Operations(max_attempts=2, runner=RunnerOptions(name="flink"), progress=print),
        LintOptions(rollouts=5),
    ],
    ids=lambda made: type(made).__name__,
)
def test_options_are_frozen_values(made: Any):
    assert replace(made) == made == pickle.loads(pickle.dumps(made))
    assert set(asdict(made)) == {item.name for item in fields(made)}
    assert "[" not in repr([value for value in vars(made).values() if isinstance(value, list)])[1:-1]
    with pytest.raises(FrozenInstanceError):
        setattr(made, fields(made)[0].name, None)


def test_a_whole_number_becomes_a_float_where_one_is_meant_and_only_there():
    made = Sampling(temperature=1, max_tokens=4)
    assert (type(made.temperature), type(made.max_tokens)) == (float, int)


def test_the_resolved_configuration_reads_back_as_itself_with_infinity(write):
    config = load_config(write("[train]\nstop_ratio = inf\n[generate.sampling]\nstop = 'a'\n"))
    assert build(RunConfig, as_dict(config), where="again") == config


@pytest.mark.parametrize(
    "text",
    [
        "[shape]\nestimator = 'explodes:estimator'\n",
        "[generate]\nprogram = 'explodes:program'\n",
        "[signals.a]\nsignal = 'explodes:Signal'\n",
        "[signals.a]\nsignal = 'outcome'\nverifier = 'explodes:verify'\n",
    ],
)
def test_building_a_configuration_imports_no_code_of_the_users(write, text, tmp_path, monkeypatch):
    (tmp_path / "explodes.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    load_config(write(text))
    assert "explodes" not in sys.modules


def test_a_program_by_an_unknown_short_name_is_refused_at_once():
    with pytest.raises(PassError, match=r"program is 'calculater'.*did you mean 'calculator'"):
        GenerateOptions(program="calculater")


@dataclass(frozen=True, kw_only=True)
class Own(SignalBase):
    """A user's signal: a plain dataclass."""

    kind = "outcome"
    limit: int = 3


@dataclass(frozen=True, kw_only=True)
class OwnOfOurs(Operations):
    """A plain dataclass that derives from a class of options."""

    more: int = 3


def test_a_plain_dataclass_is_checked_too():
    assert build_signal(f"{__name__}:Own", {"limit": 5}) == Own(limit=5)
    for options, problem in (({"limit": "5"}, "limit is '5': it must be a valid integer"),
                             ({"limt": 5}, "limt: unknown key; did you mean 'limit'?")):  # fmt: skip
        with pytest.raises(SignalOptionError, match=problem.replace("?", r"\?")):
            build_signal(f"{__name__}:Own", options)
    with pytest.raises(OptionError, match="more is '5'"):
        build(OwnOfOurs, {"more": "5"}, where="x", error=OptionError)
    assert build(OwnOfOurs, {"more": 5, "max_attempts": 2}, where="x") == OwnOfOurs(more=5, max_attempts=2)
