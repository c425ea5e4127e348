"""What the dataflow runner and its Flex template refuse or hand on; the graphs are in tests/deploy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploy.dataflow.launch import PARAMETERS, command_line
from pipelines.cli.parser import build_parser
from pipelines.runners import JobSubmitted, RunnerFlagError, RunnerOptions, run_job

TEMPLATE = json.loads((Path(__file__).resolve().parents[3] / "deploy/dataflow/template.json").read_text())
# What Dataflow accepts in a template's metadata.
KEYS = {"name", "label", "helpText", "isOptional", "regexes", "paramType"}


def test_missing_flags_are_named():
    options = RunnerOptions(name="dataflow", flags=("--project=p", "--region=r"))
    with pytest.raises(RunnerFlagError, match="needs --temp_location, --sdk_container_image after --"):
        run_job(lambda pipeline: None, options)


@pytest.mark.parametrize("name", ["direct", "prism"])
def test_a_job_that_ends_with_the_command_has_to_be_waited_for(name):
    with pytest.raises(RunnerFlagError, match=f"a job on runner {name} ends with the command"):
        RunnerOptions(name=name, wait=False)


def test_a_submitted_job_is_no_failure(monkeypatch, capsys):
    from pipelines import cli
    from pipelines.cli import questions

    def submitted(options):
        raise JobSubmitted("job x is submitted")

    monkeypatch.setattr(questions, "status", submitted)
    assert cli.main(["status", "anywhere"]) == 0
    assert "job x is submitted" in capsys.readouterr().err


def test_the_metadata_is_what_dataflow_accepts():
    assert {"name", "description", "parameters"} == set(TEMPLATE)
    for parameter in TEMPLATE["parameters"]:
        assert {"name", "label", "helpText"} <= set(parameter) <= KEYS
        assert re.fullmatch(r"[a-zA-Z][-_a-zA-Z0-9]*", parameter["name"])
        assert all(re.compile(regex) for regex in parameter.get("regexes", []))
    assert {p["name"] for p in TEMPLATE["parameters"]} == {*PARAMETERS, "sdk_container_image"}


def test_the_launcher_makes_a_command_that_passrl_understands_and_does_not_wait():
    command = command_line(
        [
            *("--stage=score", "--config=c.toml", "--out=gs://b/run", "--round=2", "--settings=shape.k=0;run.seed=3"),
            *("--runner=DataflowRunner", "--job_name=mine", "--project=p", "--sdk_container_image=i"),
        ]
    )
    at = command.index("--")
    options = build_parser().parse_args(command[:at])
    assert (options.command, options.runner, options.round) == ("score", "dataflow", 2)
    assert options.overrides == ["runner.wait=false", "shape.k=0", "run.seed=3"]
    assert command[at + 1 :] == ["--project=p", "--sdk_container_image=i"]
