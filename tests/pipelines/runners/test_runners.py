"""Runners: names, flags, what a failing job becomes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipelines.runners import JobFailed, RunnerFlagError, RunnerOptions, run_job
from pipelines.runners.quiet import beam


def test_an_unknown_runner_lists_the_known_ones() -> None:
    with pytest.raises(RunnerFlagError, match="name is 'spark': it must be 'dataflow', 'direct', 'flink' or 'prism'"):
        RunnerOptions(name="spark")


def test_an_unknown_resource_hint_is_refused() -> None:
    with pytest.raises(RunnerFlagError, match="unknown key; choose one of 'accelerator', 'cpu_count', 'min_ram'"):
        RunnerOptions(resources={"gpu": "1"})


def test_direct_is_beams_fn_api_runner_and_nothing_is_downloaded() -> None:
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    from pipelines.runners.direct import launch

    assert type(launch(()).runner) is FnApiRunner


def test_beam_is_imported_in_silence_and_no_other_threads_warnings_are_turned_off() -> None:
    script = (
        "import logging\n"
        "def refuse(level): raise AssertionError('logging.disable is the whole process')\n"
        "logging.disable = refuse\n"
        "import pipelines.runners.quiet\n"
        "logging.getLogger('another').warning('heard')\n"
        "logging.warning('heard too')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.splitlines()) == (0, ["WARNING:another:heard", "WARNING:root:heard too"])


def test_flags_reach_beam_as_they_are() -> None:
    seen: list[Any] = []

    def construct(pipeline: beam.Pipeline) -> None:
        seen.append(pipeline.options.get_all_options())
        _ = pipeline | beam.Create([1])

    run_job(construct, RunnerOptions(flags=("--direct_num_workers", "2", "--direct_running_mode=multi_threading")))
    assert (seen[0]["direct_num_workers"], seen[0]["direct_running_mode"]) == (2, "multi_threading")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--direct_num_worker=2", "did you mean '--direct_num_workers'"),
        ("--nonsense-xyzzy", "Beam has no such flag"),
        ("--runner=SparkRunner", "passrl's own --runner"),
    ],
)
def test_a_flag_beam_would_drop_is_refused_before_the_graph_is_built(flag: str, expected: str) -> None:
    built: list[object] = []
    with pytest.raises(RunnerFlagError, match=expected):
        run_job(built.append, RunnerOptions(flags=(flag,)))
    assert built == []


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_what_a_worker_raises_is_told_without_beams_frames(mode: str) -> None:
    def construct(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create([0]) | "divide" >> beam.Map(lambda x: 1 // x)

    with pytest.raises(JobFailed, match=r"runner direct: .*integer division or modulo by zero$") as caught:
        run_job(construct, RunnerOptions(flags=(f"--direct_running_mode={mode}",)))
    assert "while running" not in caught.value.log
