"""Tiny versions of the scenarios of benchmarks/scale.py: work on the store counted, so that nothing is quadratic."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scale
from pass_ops import Weights, shards
from pass_ops.reading.stream_sources import plan
from pass_ops.shards.store import Store
from pipelines.inspect.explain import explanation, stream_group, streams
from pipelines.inspect.explain.elements import Element
from pipelines.inspect.lint.facts import gather
from pipelines.parts.loop import PartLoop
from pipelines.runs.config import load_config
from pipelines.shaped.stage import shape_stage
from pipelines.view import explained
from pipelines.view.view import make_view

ROOT = Path(__file__).parents[2]
TINY = {
    "parts": scale.Size(parts=5, groups=1, group=2, tokens=16),
    "rollouts": scale.Size(parts=2, groups=16, group=4, tokens=8),
    "group": scale.Size(parts=1, groups=1, group=24, tokens=20),
    "long": scale.Size(parts=1, groups=1, group=2, tokens=3_000),
    "signals": scale.Size(parts=1, groups=2, group=4, tokens=32, signals=6),
}


def shape(folder, size):
    """The shape stage as one worker runs it, without a job around it."""
    scale.write_inputs(folder, size)
    options = load_config(str(folder / "shape.toml")).shape
    if options.streams is None:  # the format signal is scored by the benchmark's first command
        options = replace(options, format=None, weights=Weights(format=0.0))
    place = str(folder / "round-000")
    stage = shape_stage(
        rollouts=f"{place}/rollouts", signals=f"{place}/signals", out=f"{place}/shaped", options=options
    )
    stage.work.setup()
    loop = PartLoop(dataset=stage.dataset, work=stage.work, parts_in_flight=2, max_attempts=1)
    for part in shards.pending_parts(stage.dataset).todo:
        loop.offer(part)
    loop.drain()
    shards.finalize(stage.dataset)


@pytest.mark.parametrize("size", TINY.values(), ids=TINY)
def test_what_a_scenario_writes_is_whole_and_can_be_trained_on(tmp_path, size):
    shape(tmp_path, size)
    assert shards.verify(str(tmp_path)) == []
    dataset = shards.open_dataset(f"{tmp_path}/round-000/shaped")
    assert dataset.manifest.totals["rows"] == size.rows
    assert dataset.manifest.totals["tokens"] == size.rows * size.tokens
    scale.read_as_trainer(dataset.url)


def test_the_store_is_asked_in_proportion_to_the_parts(tmp_path, monkeypatch):
    """Requests, and files listed: from 2 to 4 parts as many more as from 4 to 6, in the stage and in every command."""
    asked: Counter[str] = Counter()
    hook, entries = Store._hook, Store.entries

    def counted(self, operation, name):
        asked[operation] += 1
        hook(self, operation, name)

    def listed(self, folder=""):
        found = entries(self, folder)
        asked["files listed"] += len(found)
        return found

    monkeypatch.setattr(Store, "_hook", counted)
    monkeypatch.setattr(Store, "entries", listed)
    seen: dict[str, list[Counter[str]]] = {}
    for parts in (2, 4, 6):
        run = tmp_path / str(parts)
        place = f"{run}/round-000/shaped"
        commands = {
            "shape": lambda run=run, parts=parts: shape(run, scale.Size(parts=parts, groups=1, group=2, tokens=4)),
            "status": lambda run=run: shards.status(str(run)),
            "verify": lambda run=run: shards.verify(str(run)),
            "lint": lambda place=place: gather(shards.open_dataset(place)),
            "train": lambda place=place: scale.read_as_trainer(place),
        }
        for name, command in commands.items():
            asked.clear()
            command()
            seen.setdefault(name, []).append(Counter(asked))
    for name, (two, four, six) in seen.items():
        assert four.total() > two.total(), name
        for operation in six:
            assert six[operation] - four[operation] == four[operation] - two[operation], (name, operation)


def test_growth_is_the_exponent_beyond_the_start_and_nothing_where_little_is_left():
    start = {"processor_s": 2.0}
    small, large = {"processor_s": 4.0, "size": 10}, {"processor_s": 202.0, "size": 100}
    assert scale.growth(small, large, start) == 2.0
    assert scale.growth({"processor_s": 2.9, "size": 10}, large, start) is None


def test_only_what_looks_for_trouble_may_end_with_exit_code_1():
    failing = [sys.executable, "-c", "print('a finding'); raise SystemExit(1)"]
    assert scale.run(failing, may_find=True)["found"] == "a finding\n"
    with pytest.raises(SystemExit, match="exit code 1"):
        scale.run(failing)
    with pytest.raises(SystemExit, match="exit code 3"):
        scale.run([sys.executable, "-c", "raise SystemExit(3)"], may_find=True)


def test_a_childs_peak_is_its_own():
    """From a parent as small as the benchmark's: Linux begins a child's peak at what its parent held."""
    measure = (
        "import sys; from benchmarks.scale import run; print(run([sys.executable, '-c', sys.argv[1]])['peak_mib'])"
    )
    small, large = (
        int(subprocess.check_output([sys.executable, "-c", measure, code], cwd=ROOT))
        for code in ("", "kept = b'x' * (300 << 20)")
    )
    assert large >= 300 > small


def test_the_arithmetic_shown_of_a_group_takes_as_many_steps_for_each_further_stream(tmp_path):
    counts = []
    for signals in (4, 8, 12):
        folder = tmp_path / str(signals)
        shape(folder, replace(TINY["signals"], signals=signals))
        counts.append(steps_of_explained(str(folder / "round-000" / "shaped")))
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def steps_of_explained(shaped):
    """Bytecode instructions within `pipelines/view/explained.py`: a search inside one call counts as well."""
    found = Counter()

    def step(frame, event, argument):
        found["steps"] += event == "opcode"
        return step

    def call(frame, event, argument):
        if frame.f_code.co_filename != explained.__file__:
            return None
        frame.f_trace_opcodes = True
        return step

    before = sys.gettrace()
    sys.settrace(call)
    try:
        make_view([shaped])
    finally:
        sys.settrace(before)
    return found["steps"]


def test_a_view_plans_a_dataset_once_and_makes_each_element_once(tmp_path, monkeypatch):
    made = Counter()

    class Counted(Element):
        def __init__(self, *values):
            made["elements"] += 1
            super().__init__(*values)

    def planned(*given):
        made["plans"] += 1
        return plan(*given)

    monkeypatch.setattr(streams, "Element", Counted)
    for module in (explained, explanation, stream_group):
        monkeypatch.setattr(module, "plan", planned)
    size = replace(TINY["signals"], parts=2, groups=3)
    shape(tmp_path, size)
    make_view([str(tmp_path / "round-000" / "shaped")])
    steps = size.tokens // scale.STEP
    assert made == {"plans": 1, "elements": size.rows * (steps + 1 + size.signals)}  # process, outcome, the others
