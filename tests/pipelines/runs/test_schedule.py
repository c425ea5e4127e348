"""Options by round: rules by hand, refusals, and a run whose rounds are what a run of each setting makes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipelines.options import ConfigError
from pipelines.runs.config import load_config
from pipelines.runs.run import round_prompts
from pipelines.runs.schedule import Rule, rules

MINIMAL = '[prompts]\nsource = "prompts.jsonl"\n[policy]\nmodel = "tiny"\n[schedule]\n'


@pytest.fixture
def load(tmp_path):
    def load(schedule: str, *overrides: str):
        (tmp_path / "run.toml").write_text(MINIMAL + schedule)
        return load_config(tmp_path / "run.toml", overrides)

    return load


def test_rules_by_hand():
    linear = Rule(rule="linear", start=1.0, end=0.5, rounds=5)
    assert [linear.value(index) for index in (0, 1, 2, 3, 4, 9)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]
    cosine = Rule(rule="cosine", start=2.0, end=0.0, rounds=4)
    assert [cosine.value(index) for index in (0, 3, 7)] == [2.0, 0.0, 0.0]
    assert cosine.value(1) == pytest.approx(1.0 + math.cos(math.pi / 3)) == pytest.approx(1.5)
    assert cosine.value(2) == pytest.approx(0.5)
    steps = Rule(rule="steps", values=(1, 2, 3), at=(2, 5))
    assert [steps.value(index) for index in range(7)] == [1, 1, 2, 2, 2, 3, 3]


def test_a_list_is_one_value_per_round_and_the_last_one_stays():
    rule = rules({"shape": {"k": [0.0, 0.3, 0.7]}})["shape.k"]
    assert [rule.value(index) for index in range(5)] == [0.0, 0.3, 0.7, 0.7, 0.7]


def test_a_round_has_its_own_options_and_the_others_stay(load):
    config = load(
        "train.lr = { rule = 'linear', start = 1e-5, end = 1e-6, rounds = 2 }\n"
        "generate.group_size = { rule = 'linear', start = 4, end = 7, rounds = 3 }\n"
        "generate.sampling.temperature = [1.0, 0.5]\nshape.weights.process = [0, 2.0]\n",
    )
    first, second = config.at_round(0), config.at_round(1)
    assert (first.train.lr, second.train.lr) == (1e-5, 1e-6)
    assert [config.at_round(index).generate.group_size for index in range(3)] == [4, 6, 7]  # 5.5 is rounded
    assert (first.shape.weights.process, second.shape.weights.process) == (0.0, 2.0)
    assert (second.shape.weights.outcome, second.train.clip_low) == (1.0, 0.2)
    assert second.schedule == {}
    assert config.scheduled_in(1) == {
        "train.lr": 1e-6,
        "generate.group_size": 6,
        "generate.sampling.temperature": 0.5,
        "shape.weights.process": 2.0,
    }


def test_benchmarks_are_sampled_alike_in_every_round(load, tmp_path):
    config = load("generate.sampling.temperature = [0.9, 0.5]\n[eval.benchmarks.b]\nsource = 'b.jsonl'\n")
    assert config.eval_sampling.temperature == config.at_round(1).eval_sampling.temperature == 1.0


def test_a_stream_has_a_weight_by_round(load):
    config = load(
        "shape.streams.steps.weight = [0.5, 1.5]\n[shape.streams.steps]\nsignal = 'steps.score'\n"
        "[shape.streams.right]\nsignal = 'right.reward'\n"
    )
    weights = [config.at_round(index).shape.streams["steps"].weight for index in range(3)]
    assert weights == [0.5, 1.5, 1.5]
    assert config.at_round(1).shape.streams["right"].weight == 1.0


def test_prompts_by_round_go_on_where_the_last_ended(load, tmp_path):
    for name in ("easy", "hard"):
        (tmp_path / f"{name}.jsonl").touch()
    config = load(
        "prompts.source = ['easy.jsonl', 'easy.jsonl', 'hard.jsonl']\nrun.prompts_per_round = [4, 8]\n",
        "run.prompts_per_round=2",
    )
    taken = [round_prompts(config, index) for index in range(4)]
    assert [(Path(source.source).name, source.offset, source.limit) for source in taken] == [
        ("easy.jsonl", 0, 4),
        ("easy.jsonl", 4, 8),
        ("hard.jsonl", 12, 8),
        ("hard.jsonl", 20, 8),
    ]
    assert Path(taken[0].source).parent == tmp_path, "paths in a schedule are looked up beside the file as well"


def test_a_schedule_can_be_set_on_the_command_line(load):
    assert load("", "schedule.train.lr=[1e-5, 1e-6]").at_round(1).train.lr == 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr = 1e-5\n", "schedule.train.lr is 1e-05: it must be a list with a value per round"),
        ("train.lr = []\n", "schedule.train.lr is an empty list"),
        ("engine.kind = ['vllm']\n", "schedule.engine.kind: only options of run, prompts, generate, shape, train can"),
        ("run.seed = [1, 2]\n", "schedule.run.seed: of run, only prompts_per_round can change"),
        ("train.lora_rank = [4, 8]\n", "schedule.train.lora_rank: each round carries on weights"),
        ("train.lr = { rule = 'linear', start = 1.0 }\n", "rule 'linear' takes start, end and rounds, all three"),
        ("train.lr = { rule = 'steps', values = [1.0, 2.0], at = [] }\n", "at is [] for 2 values"),
        ("train.lr = { rule = 'steps', values = [1.0, 2.0, 3.0], at = [4, 2] }\n", "from 1 on and rising"),
        ("train.lr = { rule = 'exponential' }\n", "it must be 'linear', 'cosine' or 'steps'"),
        ("train.lr = { rule = 'linear', begin = 1.0 }\n", "unknown key"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(load, text, message):
    with pytest.raises(ConfigError) as error:
        load(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.lr = [1e-5, -1.0]\n", "schedule.train.lr is -1.0 in round 1: "),
        ("train.lrr = [1e-5]\n", "there is no option 'lrr'; did you mean 'lr'?"),
        ("train.lr.x = [1e-5]\n", "there is no option 'x'"),
        ("shape.streams.none.weight = [1.0]\n", "there is no option 'none'"),
        (
            "prompts.limit = { rule = 'steps', values = [2, 3], at = [1] }\nrun.prompts_per_round = [4]\n",
            "prompts.limit is 3, but run.prompts_per_round is 4",
        ),
    ],
)
def test_a_value_that_cannot_be_names_its_round(load, text, message):
    config = load(text)
    with pytest.raises(ConfigError) as error:
        config.at_round(1)
    assert message in str(error.value)
