"""Flags of the flink and prism runners: what is refused before anything runs."""

from __future__ import annotations

import pytest

from pipelines.runners import RunnerFlagError, RunnerOptions, run_job


@pytest.mark.parametrize(
    ("runner", "flags", "expected"),
    [
        ("flink", (), "--job_endpoint=HOST:PORT of a Beam job server, or --flink_master"),
        ("flink", ("--job_endpoint=flink.example:8099",), "another machine.*--environment_type=EXTERNAL"),
        ("flink", ("--flink_master=http://flink.example:8081",), "another machine"),
        ("flink", ("--job_endpoint=localhost:1", "--job_server_timeout=1"), "no job server answered at localhost:1"),
        ("prism", ("--prism_location=nowhere/prism",), "no Prism binary at nowhere/prism.*make prism"),
        ("direct", ("--job_name=mine",), "passrl names its jobs after the dataset"),
    ],
)
def test_a_job_that_cannot_start_says_what_is_missing(runner, flags, expected):
    built: list[object] = []
    with pytest.raises(RunnerFlagError, match=expected):
        run_job(built.append, RunnerOptions(name=runner, flags=flags))
    assert built == []
