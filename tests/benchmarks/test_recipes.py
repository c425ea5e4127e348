"""Every recipe in configs/ passes the check before a run, and takes what its header and the page say."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.recipes import (
    BEGIN,
    CAUTIOUS,
    CONFIGS,
    END,
    PAGE,
    PUBLISHED,
    Cost,
    all_hours,
    cost,
    dry_run,
    recipes,
    sampling_speed,
    scoring_hours,
    stage,
    table,
    written_page,
)  # fmt: skip
from benchmarks.stand_ins import MODELS, model_names
from pipelines.models.folder import tensor_shapes
from pipelines.runs.config import RunConfig, load_config
from pipelines.runs.run import configured_signals
from pipelines.signals.base import SIGNALS

TEXT = PAGE.read_text(encoding="utf-8")
OF_THE_PAPER = ("qwen-math-7b", "qa-opd-7b", "qa-opd-7b-abs-max", "qa-g-opd-7b", "qa-g-opd-7b-abs-max")


@pytest.fixture(scope="session")
def stands(tmp_path_factory) -> Path:
    """Where stand-ins lie: models are written once."""
    return tmp_path_factory.mktemp("stands")


def recipe(name: str) -> Path:
    return CONFIGS / f"{name}.toml"


@pytest.mark.parametrize("file", recipes(), ids=lambda file: file.stem)
def test_a_recipe_passes_the_dry_run_and_takes_what_is_written(file, stands):
    found = cost(file, stands)
    assert found.line() in file.read_text(encoding="utf-8").splitlines(), "python -m benchmarks.recipes --write"
    assert found.row() in TEXT.splitlines(), "python -m benchmarks.recipes --write"


def test_the_page_has_these_recipes_and_no_others():
    rows = TEXT.split(BEGIN)[1].split(END)[0]
    assert re.findall(r"^\| `(\S+)\.toml` ", rows, re.MULTILINE) == [file.stem for file in recipes()]


def test_a_table_is_written_in_the_place_of_the_one_before():
    one = Cost(recipe="a", policy="m", signals=("prm",), cards=1, hours=(0.5, 1.25), gib=1.0, disk=2.0)
    page = written_page(f"above\n\n{BEGIN}\nold\n{END}\n\nbelow\n", [one])
    assert page == f"above\n\n{BEGIN}\n\n{table([one])}\n\n{END}\n\nbelow\n"
    assert "| `a.toml` | m | prm | 1 | 0.50 to 1.2 | 1 | 2 |" in page


def test_every_kind_of_signal_has_a_recipe():
    used = {one["signal"] for file in recipes() for one in tomllib.loads(file.read_text())["signals"].values()}
    assert used == set(SIGNALS)


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_papers_recipes_have_the_papers_settings(name):
    config = load_config(recipe(name))
    train, shape = config.train, config.shape
    assert (train.lr, train.batch_size, train.kl_coef, train.warmup_steps) == (1e-6, 128, 1e-2, 20)
    assert (train.clip_low, train.clip_high, train.weight_decay, train.betas) == (0.2, 0.2, 0.0, (0.9, 0.999))
    assert (train.loss, train.kl_estimator, train.aggregation) == ("clip", "k3", "rollout_mean")
    assert (config.generate.group_size, shape.k, shape.reference) == (16, 0.7, "base")
    assert (shape.weights.process, shape.weights.outcome, shape.weights.format) == (1.0, 1.0, 1.0)
    updates = config.run.rounds * (config.run.prompts_per_round or 0) / 128
    assert abs(updates - 78) <= 2
    assert config.signals["base"]["model"] == config.policy.model


@pytest.mark.parametrize("name", [name for name in OF_THE_PAPER if name.startswith("qa")])
def test_its_qa_recipes_have_its_models_context_and_operators(name):
    config = load_config(recipe(name))
    assert (config.policy.model, config.signals["teacher"]["model"]) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-32B-Instruct",
    )
    assert (config.engine.max_model_len, config.eval.samples) == (6144, 16)
    assert config.shape.process == ("g_opd" if "g-opd" in name else "opd")
    assert "g-opd" not in name or config.signals["g_opd"]["lam"] == 1.25
    operator = config.shape.standardize
    assert getattr(operator, "process", operator) == ("abs_max" if name.endswith("abs-max") else "masked_norm")
    assert set(config.eval.benchmarks) == {"musique", "2wikimultihopqa", "hotpotqa"}


@pytest.mark.parametrize("small", ["qwen-math-1.5b", "qa-opd-1.5b", "qa-g-opd-1.5b"])
def test_a_sibling_differs_from_the_large_recipe_in_its_models_alone(small):
    def told(name: str) -> dict:
        tables = tomllib.loads(recipe(name).read_text())
        for one in (tables["policy"], *tables["signals"].values()):
            one.pop("model", None)
            one.pop("engine", None)
        return tables

    assert told(small) == told(small.replace("1.5b", "7b"))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen2.5-32B-Instruct", 32_763_876_352),
        ("smollm2-135m-instruct", 134_515_008),
    ],
)
def test_a_stand_in_has_as_many_weights_as_the_model_and_none_on_disk(name, published, stands):
    user = next(file for file in recipes() if any(Path(one).name == name for one in names(file)))
    file = stage(user, stands)
    folder = file.parent / next(one for one in names(user) if Path(one).name == name)
    assert sum(math.prod(shape) for shape in tensor_shapes(str(folder)).values()) == published
    assert (folder / "model.safetensors").stat().st_size < 1_000_000


def names(file: Path) -> set[str]:
    return model_names(tomllib.loads(file.read_text()))


def test_no_stand_in_is_without_a_recipe():
    assert {Path(one).name for file in recipes() for one in names(file)} == set(MODELS)


def test_a_recipe_that_cannot_run_is_refused(stands, tmp_path, capsys):
    broken = tmp_path / "broken.toml"
    broken.write_text(recipe("signal-outcome").read_text().replace("max_tokens = 2048", "max_tokens = 4096"))
    with pytest.raises(RuntimeError, match=r"broken\.toml"):
        dry_run(stage(broken, stands), cards=1)
    assert "leaves no room for a prompt" in capsys.readouterr().err


def test_a_recipe_that_does_not_fit_its_cards_is_refused(stands, tmp_path, capsys):
    with pytest.raises(RuntimeError, match=r"qwen-math-7b\.toml"):
        dry_run(stage(recipe("qwen-math-7b"), stands), cards=1)
    assert "train: the update of" in capsys.readouterr().err


def test_a_recipe_must_say_how_many_cards_it_is_for(tmp_path):
    (tmp_path / "a.toml").write_text("[prompts]\n")
    with pytest.raises(ValueError, match="how many cards"):
        cost(tmp_path / "a.toml", tmp_path)


@pytest.mark.parametrize(
    ("name", "signal", "hours"),
    [
        # 8 rollouts of 1,000 tokens and as many trained tokens: 2 FLOPs a weight and token
        ("signal-prm", "prm", 2 * 8000 / (0.4 * 989e12) / 3600),
        # 10 steps of 100 tokens, 4 continuations each of 500 tokens
        ("signal-monte-carlo", "value", 8 * 40 * 500 / 3600),
        # 10 replies of 200 tokens
        ("signal-judge", "judge", 8 * 10 * 200 / 3600),
        ("signal-outcome", "outcome", 0.0),
    ],
)
def test_hours_of_a_signal_by_hand(name, signal, hours, stands):
    config = load_config(stage(recipe(name), stands))
    model = config.signals[signal].get("model") or config.policy.model
    size = sum(math.prod(shape) for shape in tensor_shapes(model).values())
    by_hand = hours * size if signal == "prm" else hours / sampling_speed(size)
    estimate = {"rollouts": 8, "tokens": 8000, "training_tokens": 8000}
    assert scoring_hours(signals_of(config)[signal], config, estimate) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("speeds", "hours"),
    [
        # 1,000 tokens sampled, 8,000 trained on at 6 FLOPs a weight and token, by half of an 8B model
        (PUBLISHED, 1000 / 12_400 + 6 * 4.015e9 * 8000 / (6 * 8.03e9 * 5762)),
        (CAUTIOUS, 1000 / 4000 + 6 * 4.015e9 * 8000 / 100e12),
    ],
)
def test_hours_of_all_rounds_by_hand(speeds, hours, stands, monkeypatch):
    config = load_config(stage(recipe("signal-outcome"), stands))
    monkeypatch.setattr("benchmarks.recipes._parameters", lambda _: 4_015_000_000)
    trained = 6 * 4.015e9 * 8000 / 50e12 / 3600
    estimate = {"rollouts": 1, "tokens": 1000, "training_tokens": 8000, "training_hours": trained}
    found = all_hours(config, estimate | {"training_tflops": 50.0}, speeds)
    assert found == pytest.approx(config.run.rounds * hours / 3600)


def signals_of(config: RunConfig) -> dict:
    return configured_signals(config)


def test_smaller_models_sample_faster_up_to_a_limit():
    assert sampling_speed(8_030_000_000) == 6200
    assert sampling_speed(4_015_000_000) == 12_400
    assert sampling_speed(135_000_000) == 24_800
