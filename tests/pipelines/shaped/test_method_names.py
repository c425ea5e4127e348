"""Methods by name in the shape stage and in sweeps: streams over the signals of the run, and functions of a group."""

from __future__ import annotations

import tomllib

import pytest
from rich.console import Console

from pass_ops import ShapingConfig, Weights, shape, shards
from pass_ops.options.presets import PRESETS
from pipelines.inspect.stored import shaping_config
from pipelines.inspect.sweep.choose import ChooseOptions, Chooser
from pipelines.inspect.sweep.report import sweep_view
from pipelines.inspect.sweep.settings import grid_settings, sweep
from pipelines.options import as_dict, build
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from tests.pipelines.shaped.test_stage import scored, whole  # noqa: F401 - a fixture
from trainer import TrainOptions

MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
NO_FORMAT = Weights(process=1.0, outcome=1.0, format=0.0)


def options(name, **more):
    return ShapeOptions(estimator=name, process="steps", outcome="right", weights=NO_FORMAT, **more)


@pytest.mark.parametrize("name", ["papo", "capo", "max_rl", "reinforce_pp", "vineppo", "pure", "tempo"])
def test_a_run_is_shaped_as_its_columns_are(scored, name):  # noqa: F811
    shape_dataset(rollouts=scored.rollouts, signals=scored.signals, out=scored.out(name), options=options(name))
    dataset = shards.open_dataset(scored.out(name))
    made = whole(dataset)
    alone = shape(made.drop_columns(MADE), ShapingConfig(estimator=name, weights=NO_FORMAT))
    assert made.select(MADE).to_pylist() == alone.select(MADE).to_pylist()
    assert shaping_config(dataset.spec) == ShapingConfig(estimator=name, weights=NO_FORMAT)


@pytest.mark.parametrize("name", PRESETS)
def test_the_streams_name_the_runs_signals(name):
    given = ShapeOptions(estimator=name, process="steps", outcome="right", format="form")
    names = {"process": "steps", "outcome": "right", "format": "form"}
    assert {key: stream.signal for key, stream in given.streams.items()} == {key: names[key] for key in given.streams}
    assert set(given.roles) >= {names[key] for key in given.streams}
    assert build(ShapeOptions, as_dict(given), where="[shape]") == given


def test_keywords_come_from_toml():
    data = tomllib.loads('estimator = "pure"\nprocess = "steps"\n[method_options]\ntemperature = 0.5')
    assert build(ShapeOptions, data, where="[shape]").method_options == {"temperature": 0.5}


def test_a_sweep_compares_methods(scored):  # noqa: F811
    names = ["pass", "papo", "pure", "max_rl"]
    settings = grid_settings(options("pass"), {"estimator": names})
    results = sweep(rollouts=scored.rollouts, signals=scored.signals, settings=settings)
    assert [result.name for result in results] == ["reference", *(f"estimator={name}" for name in names)]
    assert [result.correlation for result in results[:2]] == pytest.approx([1.0, 1.0])
    assert len({result.correlation for result in results}) == 4


def test_a_truth_judges_methods_that_are_streams_too(scored):  # noqa: F811
    """`--truth` forecasts as well: streams are asked as any estimator is, those with a pool of the dataset too."""
    settings = grid_settings(options("pass"), {"estimator": ["papo", "pure", "reinforce_pp"]})
    asked = ChooseOptions(truth="steps", forecast=True, forecast_steps=(1,), groups=2)
    chooser = Chooser(asked, signals=scored.signals, train=TrainOptions(device="cpu"))
    found = sweep(rollouts=scored.rollouts, signals=scored.signals, settings=settings, watcher=chooser)
    assert [one.truth is not None for one in found] == [True] * 4
    assert [bool(one.forecast) for one in found] == [True] * 4
    console = Console(width=200, record=True)
    console.print(sweep_view(found))
    shown = console.export_text().partition("Pay for added steps")[2]
    assert all(f"estimator={name}" in shown for name in ("papo", "pure", "reinforce_pp"))


def test_a_sweep_leaves_the_streams_of_its_base_for_another_method():
    grid = {"estimator": ["pass", "vineppo"], "weights.format": [0.0]}
    _, plain, other = grid_settings(options("papo"), grid)
    assert (plain.options.estimator, plain.options.streams) == ("pass", None)
    assert other.options.streams == options("vineppo").streams


def test_a_sweep_goes_over_keywords():
    _, *found = grid_settings(options("pure"), {"method_options.temperature": [0.1, 10.0]})
    assert [one.options.method_options for one in found] == [{"temperature": 0.1}, {"temperature": 10.0}]
