"""The whole way through the command line, on the recorded engine; vLLM takes its place in test_vllm_rounds.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from tests.e2e.project import PLAIN


def lineage(out: str) -> dict:
    return json.loads((Path(out) / "lineage.json").read_text())


def test_two_rounds_leave_everything_the_contract_names(project, capsys):
    assert main(["rounds", project.config, "--out", project.out]) == 0
    rounds = lineage(project.out)["rounds"]
    assert [entry["round"] for entry in rounds] == [0, 1]
    for index in range(2):
        folder = Path(project.out) / f"round-{index:03d}"
        names = {"prompts", "rollouts", "signals/outcome", "signals/format", "signals/steps", "shaped"}
        assert rounds[index]["datasets"] == {name: open_dataset(str(folder / name)).content_digest for name in names}
        assert (folder / "train" / "metrics.jsonl").read_text().count("\n") == 2
        assert list((folder / "train").rglob("events.out.tfevents*"))
        assert (folder / "policy" / "model.safetensors").exists()
        assert json.loads((folder / "eval" / "small" / "results.json").read_text())["samples"] == 2
    assert rounds[1]["policy"].endswith("round-000/policy")
    assert rounds[0]["policy_digest"] != rounds[1]["policy_digest"]

    shaped = open_dataset(str(Path(project.out) / "round-001" / "shaped"))
    table = shaped.read_part(0)
    assert set(table.column("policy_digest").to_pylist()) == {rounds[1]["policy_digest"]}
    assert set(table.column("round").to_pylist()) == {1}
    frame = pl.read_parquet(shaped.store.path(shaped.parts[0].data))
    assert frame.get_column("chunk_ends").list.last().to_list() == frame.get_column("token_ids").list.len().to_list()

    capsys.readouterr()
    assert main(["verify", project.out]) == 0
    assert "clean" in capsys.readouterr().out


def test_a_second_run_changes_nothing_and_says_done(project, capsys):
    assert main(["run", project.config, "--out", project.out]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(project.out).rglob("part-*.parquet")}
    digests = lineage(project.out)["rounds"][0]["datasets"]
    assert main(["run", project.config, "--out", project.out]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path(project.out).rglob("part-*.parquet")} == before
    assert lineage(project.out)["rounds"][0]["datasets"] == digests


def test_stages_one_by_one_give_what_run_gives(project):
    assert main(["run", project.config, "--out", project.out]) == 0
    other = project.out + "-staged"
    for stage in ("generate", "score", "shape", "train"):
        assert main([stage, project.config, "--out", other]) == 0
    assert main(["eval", project.config, "--out", other, "--round", "0"]) == 0
    assert lineage(other)["rounds"][0]["datasets"] == lineage(project.out)["rounds"][0]["datasets"]
    policies = [Path(out) / "round-000" / "policy" / "model.safetensors" for out in (project.out, other)]
    assert policies[0].read_bytes() == policies[1].read_bytes()


def test_shaping_again_with_other_options_lies_beside_the_first(project, capsys):
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out]) == 0
    again = ["shape", project.config, "--out", project.out, "--name", "shaped-k0", "--set", "shape.k=0", "--json"]
    capsys.readouterr()
    assert main(again) == 0
    manifest = json.loads(capsys.readouterr().out)
    tables = [open_dataset(f"{project.out}/round-000/{name}").read_part(0) for name in ("shaped", "shaped-k0")]
    assert manifest["folder"].endswith("shaped-k0")
    assert tables[0].column("chunk_credits") == tables[1].column("chunk_credits")
    assert tables[0].column("chunk_advantages") != tables[1].column("chunk_advantages")


def test_other_options_in_the_same_folder_are_refused_by_name_then_overwritten(project, capsys):
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out]) == 0
    changed = ["shape", project.config, "--out", project.out, "--set", "shape.k=0"]
    assert main(changed) == 2
    assert "k" in (message := capsys.readouterr().err)
    assert "--overwrite" in message
    assert main([*changed, "--overwrite"]) == 0
    assert open_dataset(f"{project.out}/round-000/shaped").spec.options["k"] == 0
    back = ["shape", project.config, "--out", project.out, "--overwrite"]
    capsys.readouterr()
    assert main(back) == 2  # two configurations in turn: the first one's late writers could still be at work
    assert f"once no job of {project.out}/round-000/shaped runs any more, remove the folder" in capsys.readouterr().err
    shutil.rmtree(f"{project.out}/round-000/shaped")
    assert main(back) == 0
    assert main(["verify", project.out]) == 0


def test_dry_run_prints_configuration_and_estimate_and_touches_nothing(project, capsys):
    assert main(["run", project.config, "--out", project.out, "--dry-run", "--set", "shape.k=0.25"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["shape"]["k"] == 0.25
    assert (printed["estimate"]["prompts"], printed["estimate"]["rollouts"], printed["estimate"]["parts"]) == (
        10,
        30,
        3,
    )
    assert not Path(project.out).exists()


def test_the_dry_run_of_a_stage_estimates_what_it_is_part_of(project, capsys):
    text = Path(project.config).read_text()
    project.write("run.toml", text + '\n[eval.benchmarks.all]\nsource = "prompts.jsonl"\nprompts_per_part = 6\n')
    found = {}
    for stage in ("eval", "generate", "train"):
        assert main([stage, project.config, "--out", project.out, "--dry-run"]) == 0
        found[stage] = json.loads(capsys.readouterr().out)["estimate"]
    one = found["eval"]
    assert (one["prompts"], one["parts"], one["rollouts"]) == (4 + 10, 1 + 2, 2 * 14)
    assert (one["tokens"], one["training_tokens"], one["training_hours"]) == (28 * 8, 0, 0.0)
    assert found["train"] == found["generate"]
    assert not Path(project.out).exists()
    Path(project.folder, "prompts.jsonl").unlink()
    assert main(["train", project.config, "--out", project.out, "--dry-run"]) == 0, "it reads no prompts itself"


def test_infinite_options_are_json_too(project, capsys):
    project.write("run.toml", PLAIN)
    command = ["rounds", project.config, "--rounds", "1", "--out", project.out, "--set", "train.stop_ratio=inf"]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert main([*command, "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert printed["config"]["train"]["stop_ratio"] == "inf"
    assert main(command) == 0
    told = json.loads(Path(project.out, "lineage.json").read_text(), parse_constant=refuse)
    assert told["rounds"][0]["config"]["train"]["stop_ratio"] == "inf"


def test_reverify_shows_what_another_verifier_would_say_and_writes_nothing(project, capsys):
    for stage in ("generate", "score"):
        assert main([stage, project.config, "--out", project.out]) == 0
    files = sorted(Path(project.out).rglob("*"))
    capsys.readouterr()
    exact = ["--signal", "outcome", "--set", "signals.outcome.verifier=exact"]
    assert main(["score", project.config, "--out", project.out, "--reverify", "--json", *exact]) == 0
    diff = json.loads(capsys.readouterr().out)["outcome"]
    assert diff["rows"] == 30
    assert sum(diff["moves"].values()) == 30
    assert all(move.endswith("-> wrong") for move in diff["moves"])
    assert len(diff["changes"]) == 30 - diff["moves"].get("wrong -> wrong", 0)
    assert main(["score", project.config, "--out", project.out, "--reverify"]) == 0
    assert "outcome: 0 of 30 verdicts change" in capsys.readouterr().out
    assert sorted(Path(project.out).rglob("*")) == files


VALUE = """
[signals.value]
signal = "monte_carlo"
verifier = "number"
samples = 2
separator = "\\n"
workers = 1
engine = { kind = "recorded", recording = "synthetic:3" }
"""


def test_prm_check_compares_two_signals_of_the_same_steps(project, capsys):
    project.write("run.toml", Path(project.config).read_text() + VALUE)
    for stage in ("generate", "score"):
        assert main([stage, project.config, "--out", project.out]) == 0
    capsys.readouterr()
    check = ["prm-check", project.out, "--signal", "value", "--truth", "steps"]
    assert main([*check, "--padding", "=[0-9]+", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rollouts"] + report["skipped"] == 30
    assert report["steps"] == sum(report["kinds"][kind]["steps"] for kind in ("right", "wrong", "neutral"))
    assert report["steps"] == sum(found["steps"] for found in report["by_length"])
    assert main(check) == 0
    assert "value against steps" in capsys.readouterr().out
    assert main([*check[:-1], "outcome"]) == 2
    assert "'outcome' is of kind outcome" in capsys.readouterr().err


def test_status_and_inspect_read_the_store_alone(project, capsys):
    assert main(["generate", project.config, "--out", project.out]) == 0
    capsys.readouterr()
    assert main(["status", project.out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["datasets"]
    assert {(entry["stage"], entry["done"], entry["rows"]) for entry in found} == {
        ("prompts", 3, 10),
        ("generate", 3, 30),
    }
    rollouts = f"{project.out}/round-000/rollouts"
    assert main(["inspect", rollouts, "--group", "prompts-1", "--json"]) == 0
    assert [row["sample_index"] for row in json.loads(capsys.readouterr().out)] == [0, 1, 2]
    assert main(["inspect", rollouts, "--part", "9"]) == 2
    assert "its parts are 0 to 2" in capsys.readouterr().err


COMMANDS = (
    "run rounds generate score shape train eval inspect status verify clean finalize demo sweep explain lint prm-check"
)


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out
