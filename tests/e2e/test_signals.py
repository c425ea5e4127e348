"""Every process signal side by side on one set of rollouts: the demo's models, real vLLM, the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.demo.arithmetic import ANSWER_PATTERN, FORMAT_PATTERN, Split, prompt_rows
from pipelines.demo.assets import asset_folder

CONFIG = f"""
[prompts]
source = "prompts.jsonl"
prompts_per_part = 3
[policy]
model = "{asset_folder("policy")}"
[engine]
dtype = "float32"
max_model_len = 192
max_num_seqs = 32
kv_cache_gib = 0.25
[generate]
group_size = 4
[generate.sampling]
max_tokens = 112
[signals.outcome]
signal = "outcome"
verifier = "regex"
verifier_options = {{ pattern = '{ANSWER_PATTERN}' }}
[signals.format]
signal = "format"
pattern = '{FORMAT_PATTERN}'
[signals.execution]
signal = "execution"
checker = "pipelines.demo.arithmetic:check_steps"
separator = "\\n"
[signals.teacher]
signal = "logprobs"
model = "{asset_folder("teacher")}"
[signals.base]
signal = "logprobs"
[signals.opd]
signal = "opd"
teacher = "teacher"
[signals.opd_steps]
signal = "opd"
teacher = "teacher"
policy = "base"
per = "step"
separator = "\\n"
[signals.g_opd]
signal = "g_opd"
teacher = "teacher"
base = "base"
[signals.prm]
signal = "prm"
model = "{asset_folder("prm")}"
separator = "\\n"
engine = {{ dtype = "float32", kv_cache_gib = 0.25, max_num_seqs = 32 }}
[signals.value]
signal = "monte_carlo"
verifier = "regex"
verifier_options = {{ pattern = '{ANSWER_PATTERN}' }}
samples = 2
separator = "\\n"
[shape]
process = "execution"
outcome = "outcome"
format = "format"
"""
BOTH = """
[signals.both]
signal = "combine"
signals = ["execution", "prm"]
weights = [3.0, 1.0]
"""
PROCESS = {"execution": "prm", "opd": "kl", "g_opd": "kl", "opd_steps": "prm", "prm": "prm", "value": "prm"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A round's rollouts with every signal of CONFIG beside them."""
    folder = tmp_path_factory.mktemp("signals")
    rows = prompt_rows(6, seed=1, split=Split.ROUNDS)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(CONFIG)
    for stage in ("generate", "score"):
        assert main([stage, str(folder / "run.toml"), "--out", str(folder / "run")]) == 0
    return folder


def stored(run: Path, name: str) -> pa.Table:
    dataset = open_dataset(str(run / "run" / "round-000" / name))
    return pa.concat_tables(dataset.read_part(part) for part in range(dataset.spec.parts))


def signal(run: Path, name: str) -> list[dict]:
    return stored(run, f"signals/{name}").to_pylist()


def test_every_row_of_every_signal_has_its_value(run: Path) -> None:
    assert main(["verify", str(run / "run")]) == 0
    for name in PROCESS:
        assert {row["status"] for row in signal(run, name)} == {"ok"}, name


def test_opd_and_g_opd_are_formed_from_the_models_log_probabilities(run: Path) -> None:
    rollouts = stored(run, "rollouts").to_pylist()
    rows = zip(*(signal(run, name) for name in ("teacher", "base", "opd", "g_opd", "opd_steps")), rollouts, strict=True)
    for teacher, base, opd, g_opd, steps, rollout in rows:
        policy_T = np.array(rollout["behavior_logprobs"])
        teacher_T, base_T = np.array(teacher["logprobs"]), np.array(base["logprobs"])
        np.testing.assert_allclose(base_T, policy_T, atol=1e-4, err_msg="the policy scored again is what it sampled by")
        np.testing.assert_allclose(opd["process_scores"], teacher_T - policy_T, atol=1e-5)
        expected = -((policy_T - base_T) - 1.25 * (teacher_T - base_T))
        np.testing.assert_allclose(g_opd["process_scores"], expected, atol=1e-5)
        starts = [0, *steps["process_ends"][:-1]]
        sums = np.add.reduceat(teacher_T - base_T, starts)
        np.testing.assert_allclose(steps["process_scores"], sums, atol=1e-4)
        lines = [at + 1 for at, token in enumerate(rollout["text"]) if token == "\n"]
        assert steps["process_ends"][: len(lines)] == lines


def test_values_know_right_rollouts_from_wrong_ones(run: Path) -> None:
    """The last step's value is the verdict; steps before it are worth more in rollouts that end right."""
    verdicts = [row["verify_status"] == "ok" for row in signal(run, "outcome")]
    values = [row["process_scores"] for row in signal(run, "value")]
    assert [scores[-1] == 1.0 for scores in values] == verdicts
    before = {right: np.mean([np.mean(v[:-1]) for v, r in zip(values, verdicts, strict=True) if r is right and v[:-1]])
              for right in (True, False)}  # fmt: skip
    assert before[True] > before[False]


def test_a_new_signal_rewrites_no_old_one(run: Path) -> None:
    signals = run / "run" / "round-000" / "signals"

    def files() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in signals.rglob("*") if path.is_file()}

    before = files()
    (run / "more.toml").write_text(CONFIG + BOTH)
    assert main(["score", str(run / "more.toml"), "--out", str(run / "run"), "--signal", "both"]) == 0
    after = files()
    assert {path: after[path] for path in before} == before
    assert {path.relative_to(signals).parts[0] for path in after.keys() - before.keys()} == {"both"}
    for both, execution, prm in zip(*(signal(run, name) for name in ("both", "execution", "prm")), strict=True):
        mean = 0.75 * np.array(execution["process_scores"]) + 0.25 * np.array(prm["process_scores"])
        np.testing.assert_allclose(both["process_scores"], mean, atol=1e-6)


@pytest.mark.parametrize("name", PROCESS)
def test_each_can_be_shaped(run: Path, name: str) -> None:
    arguments = ["shape", str(run / "run.toml"), "--out", str(run / "run"), "--name", f"shaped-{name}"]
    assert main([*arguments, "--set", f"shape.process={name}"]) == 0
    assert open_dataset(str(run / "run" / "round-000" / f"shaped-{name}")).spec.options["signal"] == PROCESS[name]
    assert all(stored(run, f"shaped-{name}")["trainable"].to_pylist())


def test_prm_check_finds_the_values_better_than_the_tiny_prm(run: Path, capsys) -> None:
    found = {}
    for name in ("prm", "value"):
        command = ["prm-check", str(run / "run"), "--signal", name, "--truth", "execution", "--padding", r"=\d\d"]
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["value"]["auc"] > 0.5
    lines = [line for row in stored(run, "rollouts")["text"].to_pylist() for line in row.split("\n")]
    padding = sum(re.fullmatch(r"=\d\d", line) is not None for line in lines)
    assert found["prm"]["kinds"]["padding"]["steps"] == padding > 0
    assert found["prm"]["kinds"]["neutral"]["steps"] >= found["prm"]["kinds"]["padding"]["steps"]
