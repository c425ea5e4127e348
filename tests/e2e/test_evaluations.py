"""passrl eval: several benchmarks by one engine, each with its verifier; files beside them; two policies compared."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cli.parser import main
from pipelines.runs.evaluate import EvalResult

HOPS = """
[eval.benchmarks.hops]
kind = "hotpotqa"
source = "hops.json"
"""


@pytest.fixture
def evaluated(project):
    """A project with a second benchmark, of HotpotQA's form, and a first evaluation of both."""
    row = {"question": "1+1?", "answer": "2", "context": [["a", ["2+2"]]]}
    project.write("hops.json", json.dumps([{"_id": f"q{i}", **row} for i in range(3)]))
    Path(project.config).write_text(Path(project.config).read_text() + HOPS)
    return project


def test_benchmarks_share_an_engine_and_leave_tables_that_say_what_results_json_says(evaluated, monkeypatch, capsys):
    started = []
    acquire = importlib.import_module("pipelines.engines.acquire")  # its package has a function of that name
    start = acquire.start_engine
    acquire.release()
    monkeypatch.setattr(acquire, "start_engine", lambda *given: started.append(given) or start(*given))
    template = 'eval.benchmarks.hops.template="{prompt}="'  # the tiny model knows no words
    assert main(["eval", evaluated.config, "--out", evaluated.out, "--set", template, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(started) == 1
    folder = Path(evaluated.out) / "start" / "eval"
    found = {name: EvalResult.from_json((folder / name / "results.json").read_text()) for name in ("small", "hops")}
    assert told == {name: json.loads(result.to_json()) for name, result in found.items()}
    rows = {row["benchmark"]: row for row in pq.read_table(folder / "results.parquet").to_pylist()}
    prompts = pq.read_table(folder / "prompts.parquet").to_pylist()
    for name, result in found.items():
        assert rows[name]["pass@2"] == result.pass_at[2].value
        assert (rows[name]["pass@1_low"], rows[name]["maj@2"]) == (result.pass_at[1].low, result.majority[2].value)
        assert [row["correct"] for row in prompts if row["benchmark"] == name] == list(result.correct_P)
    assert [row["prompt_id"] for row in prompts if row["benchmark"] == "hops"] == ["q0", "q1", "q2"]
    options = json.loads((folder / "hops/signals/outcome/_dataset.json").read_text())["options"]
    assert (options["verifier"], options["verifier_options"]) == ("squad", {"reward": "f1", "closed": True})


def test_policies_stand_side_by_side_and_are_compared_prompt_by_prompt(project, capsys):
    run = [project.config, "--out", project.out]
    other = [project.config, "--out", f"{project.out}-b", "--set", "eval.seed=5"]
    assert main(["eval", *other]) == 0
    assert main(["eval", *run, "--beside", f"{project.out}-b/start/eval"]) == 0
    table = (Path(project.out) / "evaluations.md").read_text().splitlines()
    assert table[:2] == ["| pass@1/pass@2, % | small | mean | tokens |", "| --- | --- | --- | --- |"]
    assert [line.split(" | ")[0] for line in table[2:]] == ["| start/eval", f"| {project.out}-b/start/eval"]
    passed = EvalResult.from_json(Path(project.out, "start/eval/small/results.json").read_text()).pass_at
    shares = [100 * share for share in (passed[1].value, passed[2].value, passed[1].low, passed[1].high)]
    assert "{:.1f}/{:.1f} ({:.1f}-{:.1f})".format(*shares) == table[2].split(" | ")[1]
    capsys.readouterr()
    assert main(["diff", f"{project.out}/start/eval", f"{project.out}-b/start/eval", "--json"]) == 0
    results = {one["what"]: one["difference"] for one in json.loads(capsys.readouterr().out)["results"]}
    assert list(results) == ["pass@1 small", "pass@2 small", "maj@2 small"]
    assert all(one["paired"] and one["prompts"] == 4 and 0 < one["p"] <= 1 for one in results.values())
    assert main(["diff", f"{project.out}/start/eval", f"{project.out}-b/start/eval"]) == 0
    assert "maj@2 small" in capsys.readouterr().out
    assert main(["diff", f"{project.out}/start/eval", project.out]) == 2
    assert "Evaluations are compared with each other only" in capsys.readouterr().err


def test_a_row_beside_never_takes_the_place_of_the_runs_own_and_other_prompts_have_a_star(project, monkeypatch):
    other, fewer = f"{project.out}-b", f"{project.out}-c"
    assert main(["eval", project.config, "--out", other, "--set", "eval.seed=5"]) == 0
    assert main(["eval", project.config, "--out", fewer, "--set", "eval.benchmarks.small.limit=3"]) == 0
    monkeypatch.chdir(other)
    beside = ["--beside", "start/eval", "--beside", f"{fewer}/start/eval"]
    assert main(["eval", project.config, "--out", project.out, *beside]) == 0
    head, _, *rows, empty, note = Path(project.out, "evaluations.md").read_text().splitlines()
    assert head.startswith("| pass@1/pass@2, % | small")
    assert [row.split(" | ")[0] for row in rows] == ["| start/eval", f"| {other}/start/eval", f"| {fewer}/start/eval"]
    assert [row.count(" \\* |") for row in rows] == [0, 0, 3]  # of the benchmark, and of both means
    assert not empty
    assert note.startswith("\\* over other prompts")


def test_a_policy_is_that_of_a_round_or_another_folder_and_not_both(project, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", project.config, "--out", project.out, "--round", "0", "--policy", "model"])
    assert ended.value.code == 2
    assert "not allowed with argument --round" in capsys.readouterr().err


def test_what_is_to_stand_beside_is_looked_for_before_anything_is_sampled(project, capsys):
    assert main(["eval", project.config, "--out", project.out, "--beside", str(project.folder)]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert not Path(project.out, "start").exists()


def test_results_of_an_earlier_version_are_read_verified_and_shown(project, capsys):
    assert main(["eval", project.config, "--out", project.out]) == 0
    file = Path(project.out) / "start/eval/small/results.json"
    stored = json.loads(file.read_text())
    new = ("majority", "reward", "ruling", "reward_P", "majority_P", "length_P", "truncated_P", "unscored_P")
    old = {name: value for name, value in stored.items() if name not in new}
    old["pass_at"] = {
        k: {"value": one["value"], "standard_error": one["standard_error"]} for k, one in old["pass_at"].items()
    }
    file.write_text(json.dumps(old))
    capsys.readouterr()
    assert main(["verify", project.out]) == 0
    assert main(["diff", f"{project.out}/start/eval", f"{project.out}/start/eval"]) == 0
    assert EvalResult.from_json(file.read_text()).ruling == "reward"
    assert main(["eval", project.config, "--out", project.out]) == 0
    assert json.loads(file.read_text()) == stored
