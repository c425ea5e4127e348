"""The study's cells, grid and runner, on models without training and one round."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.study import run, store, tables
from benchmarks.study.arms import ARMS, CORE, FURTHER, Cell, cell_of
from benchmarks.study.cell import rollouts, run_cell
from benchmarks.study.publish import KEPT_SEED, kept_rows, publish
from benchmarks.study.report import report
from benchmarks.study.sample import Completion
from benchmarks.study.signals import judged_batch, table
from benchmarks.study.size import FIRST_SEED, FULL, SMOKE, TUNING_SEED, grid, tuning_cells
from benchmarks.study.stored import read_stored
from benchmarks.study.tasks import PUPIL, Split, make_tasks, write_trace
from pass_ops import shape, shards
from tests.benchmarks.study.models import generator, tiny_models

SIZE = replace(
    SMOKE, rounds=2, prompts=2, copies=4, cap=48, evaluation_prompts=4, evaluate_every=1, rates=(1e-3, 1e-2),
    arms=("grpo_outcome", "pass_k07", "pass_opd"),
)  # fmt: skip
CELL = Cell("pass_k07", "slight", 1e-3, KEPT_SEED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def shop(folder):
    return run.open_workshop(folder, SIZE)


@pytest.fixture(scope="module")
def batch(shop):
    shop.reset()
    return rollouts(shop, [task.prompt_ids() for task in make_tasks(3, seed=1, split=Split.ROUNDS)], generator())


def test_names_of_cells_are_read_back():
    for cell in (CELL, Cell("pass_opd", "none", 5e-5, 3), *grid(FULL, dict.fromkeys(ARMS, 1e-3))):
        assert cell_of(cell.name) == cell
    for name in ("pass_k07-none-lr0.001-s0", "pass-slight-lr0.001-s0", "pass_k07-slight-lr0.0010-s0", "pass_k07"):
        with pytest.raises(ValueError, match="names no cell"):
            cell_of(name)


def test_any_prefix_of_whole_seeds_is_a_paired_design():
    cells = grid(FULL, dict.fromkeys(ARMS, 1e-3))
    core = [cell for cell in cells if cell.arm in CORE]
    assert cells[: len(core)] == core
    assert [cell.seed for cell in core] == sorted(cell.seed for cell in core)
    for seed in range(FIRST_SEED, FIRST_SEED + FULL.seeds):
        assert {(cell.arm, cell.level) for cell in core if cell.seed == seed} == {
            (arm, level)
            for arm in CORE
            for level in ARMS[arm].levels
            if seed < FIRST_SEED + FULL.teacher_seeds or ARMS[arm].signal not in ("opd", "g_opd")
        }
    assert {cell.seed for cell in tuning_cells(FULL)}.isdisjoint({cell.seed for cell in cells})
    assert len({cell.name for cell in cells}) == len(cells)


def test_execution_truth_is_in_no_process_signal(shop, batch):
    lies = [replace(one, truth=tuple(1 - value for value in one.truth)) for one in batch.judged]
    for arm in ARMS.values():
        for level in arm.levels:
            honest, lied = (
                table(replace(batch, judged=judged), arm, level, shop.models) for judged in (batch.judged, lies)
            )
            assert honest.equals(lied)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_can_be_shaped(shop, batch, arm):
    shaped = shape(table(batch, ARMS[arm], ARMS[arm].levels[0], shop.models), ARMS[arm].shaping, threads=1)
    assert all(shaped["trainable"].to_pylist())


def test_a_cell_starts_from_the_start_policy_and_learns(shop):
    shop.reset()
    before = {name: tensor.clone() for name, tensor in shop.parameters.items()}
    first = list(run_cell(replace(CELL, arm="grpo_opd", level="none"), shop))
    moved = {name: tensor.clone() for name, tensor in shop.parameters.items()}
    assert any((moved[name] != before[name]).any() for name in before)
    assert all((shop.models.policy[name] == before[name]).all() for name in before)
    again = list(run_cell(replace(CELL, arm="grpo_opd", level="none"), shop))
    strip = [{name: value for name, value in row.items() if "seconds" not in name} for row in (*first, *again)]
    assert strip[:3] == strip[3:]
    assert [row["round"] for row in first] == [0, 1, 2]
    assert [row["updates"] for row in first] == [0, 2, 4]
    assert [row["rollouts"] for row in first] == [0, 8, 16]
    assert first[-1]["grad_norm"] > 0
    assert first[-1]["low_temperature"] is not None
    assert first[1]["low_temperature"] is None


def test_finished_cells_stay_and_rates_are_chosen_by_tuning(folder, tmp_path):
    results, places = tmp_path / "results", {"models": folder, "rollouts": tmp_path / "rollouts"}
    with pytest.raises(ValueError, match="6 tuning cells"):
        run.cells_of(SIZE, "grid", results, models=folder)
    cells = run.cells_of(SIZE, "tuning", results, models=folder)
    assert run.work(cells, size=SIZE, results=results, **places) == []
    stamps = {file: file.stat().st_mtime_ns for file in results.glob("*.parquet")}
    assert len(stamps) == 6
    assert run.work(cells, size=SIZE, results=results, **places) == []
    assert {file: file.stat().st_mtime_ns for file in results.glob("*.parquet")} == stamps
    assert not (tmp_path / "rollouts").exists()  # tuning seeds are not kept

    better = store.result_file(results, Cell("pass_opd", "none", 1e-2, TUNING_SEED))
    rows = pq.read_table(better).to_pylist()
    store.write_result(better, [{**row, "pass1": 0.9} for row in rows])
    world = store.world_digest(folder)
    rates = run.chosen_rates(SIZE, results, world=world)
    assert rates["pass_opd"] == 1e-2
    assert rates["pass_k07"] == 1e-3  # equal: the lower
    assert store.read_results(results).schema == store.SCHEMA
    assert {cell.arm: cell.lr for cell in run.cells_of(SIZE, "grid", results, models=folder)} == rates

    store.write_result(better, [{**row, "pass1": 0.9, "world": "elsewhere"} for row in rows])
    with pytest.raises(
        ValueError, match=f"1 tuning cells .* another world than {world} .*pass_opd-none-lr0.01-s1000 in"
    ):
        run.cells_of(SIZE, "grid", results, models=folder)
    other = Cell("pass_opd", "none", 1e-1, TUNING_SEED)  # a rate that this size does not try chooses nothing
    store.write_result(store.result_file(results, other), [{**row, "pass1": 1.0} for row in rows])
    store.write_result(better, rows)
    assert run.chosen_rates(SIZE, results, world=world)["pass_opd"] in SIZE.rates


def test_a_failed_cell_is_named_and_does_not_stop_the_others(folder, tmp_path, monkeypatch):
    bad, good = Cell("pass_opd", "none", 1e-3, 5), Cell("grpo_outcome", "none", 1e-3, 5)
    real = run.run_cell

    def failing(cell, *rest):
        if cell == bad:
            raise RuntimeError("no")
        return real(cell, *rest)

    monkeypatch.setattr(run, "run_cell", failing)
    failed = run.work([bad, good], size=SIZE, models=folder, results=tmp_path, rollouts=tmp_path / "rollouts")
    assert failed == [bad.name]
    assert [file.name for file in tmp_path.glob("*.parquet")] == [f"{good.name}.parquet"]


@pytest.fixture(scope="module")
def trained_shop():
    """The study's own models: rollouts of untrained ones are all wrong alike, so that most arms credit nothing."""
    size = replace(SMOKE, rounds=1, updates=1, copies=8, evaluation_prompts=2, evaluate_every=1)
    return run.open_workshop(store.MODELS, size)


@pytest.mark.parametrize("arm", FURTHER)
def test_every_further_arm_trains_and_is_reported(trained_shop, tmp_path, arm):
    """It is no arm of a claim, so nothing else would notice that it does not."""
    cell = Cell(arm, ARMS[arm].levels[-1], 1e-3, FIRST_SEED)
    results = tmp_path / "results"
    assert run.compute(cell, trained_shop, results=results, rollouts=tmp_path / "rollouts", world="w")
    row = pq.read_table(store.result_file(results, cell)).to_pylist()[-1]
    assert row["round"] == 1
    assert row["grad_norm"] > 0
    assert (row["chunks"] is None) == (ARMS[arm].signal == "none")
    made = report(read_stored(tmp_path))
    assert f"| {tables.NAMES[arm]} | 1 |" in made["tables.md"].decode()
    assert "1 cells are finished" in made["index.md"].decode()


# Its killer may be late: it never comes to write its result.
WORKER = """
import signal, sys
from pathlib import Path
from benchmarks.study import run
from tests.benchmarks.study.test_study import SIZE, CELL
run.write_result = lambda *_: signal.pause()
models, out = map(Path, sys.argv[1:])
sys.exit(len(run.work([CELL], size=SIZE, models=models, results=out, rollouts=out / "rollouts")))
"""


def test_a_killed_study_goes_on(folder, tmp_path):
    command = [sys.executable, "-c", WORKER, str(folder), str(tmp_path)]
    lock = tmp_path / f".{CELL.name}.parquet.lock"
    killed = subprocess.Popen(command, cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a child on its way to becoming git may still have it
    assert not list(tmp_path.glob("*.parquet"))
    places = {"models": folder, "results": tmp_path, "rollouts": tmp_path / "rollouts"}
    assert run.work([CELL], size=SIZE, **places) == []
    assert store.result_file(tmp_path, CELL).exists()
    assert not list(tmp_path.glob(".*"))


def written_batch():
    """What a writer of traces would have sampled: unlike models without training it can be imported whole."""
    rng, copies = random.Random(0), 4
    tasks = make_tasks(3, seed=2, split=Split.ROUNDS)
    traces = [write_trace(task, PUPIL, rng).ids() for task in tasks for _ in range(copies)]
    completions = [Completion(tuple(ids), *np.full((2, len(ids)), -0.5, np.float32)) for ids in traces]
    return judged_batch([task.prompt_ids() for task in tasks], completions, copies=copies)


def test_kept_rollouts_are_published_as_shards(shop, tmp_path):
    batch = written_batch()
    files = tmp_path / "kept"
    for arm, level in (("pass_k07", "high"), ("pass_opd", "none")):
        rows = list(kept_rows(0, batch, table(batch, ARMS[arm], level, shop.models)))
        run.write_kept(files / f"{Cell(arm, level, 1e-3, 0).name}.parquet", rows)
    models = tiny_models(tmp_path / "models")
    (models / "policy" / "card.json").write_text('{"pass1": 0.3}')
    publish(tmp_path / "out", models=models, kept=files)
    where = tmp_path / "out" / "pass_k07-high-lr0.001-s0" / "round-000"
    published = shards.open_dataset(str(where / "rollouts")).read_part(0)
    steps = shards.open_dataset(str(where / "signals" / "steps")).read_part(0)
    assert published["token_ids"].to_pylist() == [list(one.ids) for one in batch.completions]
    assert all(
        ends[-1] == len(ids)
        for ends, ids in zip(steps["process_ends"].to_pylist(), published["token_ids"].to_pylist(), strict=True)
    )
    assert "pass_opd-none" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match="nothing to publish"):
        publish(tmp_path / "out", models=models, kept=tmp_path / "nowhere")
