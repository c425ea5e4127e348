"""prm-check --labels with a real process reward model, the demo's: the command line against a plain forward pass."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.demo_models.prm import step_scores
from pass_ops import Weights, shape, token_advantages
from pass_ops.shards import PROMPTS, ROLLOUTS
from pipelines.cli import main
from pipelines.demo.arithmetic import PUPIL, Split, check_steps, make_prompts, split_steps, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel
from pipelines.inspect.prm_check.check import auc
from pipelines.inspect.prm_check.labels import shaping
from pipelines.models.folder import load_tokenizer
from pipelines.signals import build_signal

PRM, POLICY = str(asset_folder("prm")), str(asset_folder("policy"))
ENGINE = ["--set", "engine.kind=transformers"]
TOO_LONG = "=10\n" * 100


@pytest.fixture(scope="module")
def traces() -> list[tuple[str, list[str]]]:
    """Prompts with three solutions each, as steps."""
    rng = random.Random(5)
    prompts = make_prompts(6, seed=6, split=Split.HELD_OUT)
    return [(prompt, split_steps(write_trace(prompt, PUPIL, rng).text)) for prompt in prompts for _ in range(3)]


@pytest.fixture(scope="module")
def labels(traces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TRL's form: 1 right, 0 wrong, 0.5 a line that adds nothing; and one solution that is too long for the model."""
    rows = [{"prompt": prompt, "completions": steps, "labels": check_steps(prompt, steps)} for prompt, steps in traces]
    rows.append({"prompt": "1?", "completions": TOO_LONG.split(), "labels": [1] * 100})
    file = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def reported(labels: Path) -> dict[str, Any]:
    """What the command prints, and the scores that it saved."""
    saved, printed = labels.with_name("scores.jsonl"), labels.with_name("report.json")
    with pytest.MonkeyPatch.context() as patch, printed.open("w") as out:
        patch.setattr("sys.stdout", out)
        command = ["prm-check", "--labels", f"trl:{labels}", "--model", PRM, *ENGINE, "--save-scores", str(saved)]
        assert main([*command, "--tokenizer", POLICY, "--json"]) == 0
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    return {"report": json.loads(printed.read_text()), "rows": rows}


def test_scores_are_those_of_a_plain_forward_pass(reported, traces) -> None:
    model = Qwen2ForProcessRewardModel.from_pretrained(PRM, dtype=torch.float32)
    wanted = step_scores(model, load_tokenizer(PRM), traces)
    *rows, long = reported["rows"]
    assert [row["key"] for row in rows] == [str(number) for number in range(1, len(traces) + 1)]
    for row, scores in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(row["scores"], scores, atol=1e-4)
    assert long["scores"] is None
    assert reported["report"]["unscored"] == {"too_long": 1}


def test_the_auc_is_that_of_the_forward_pass(reported, traces) -> None:
    truth = np.concatenate([check_steps(*trace) for trace in traces])
    scores = np.concatenate([row["scores"] for row in reported["rows"][:-1]])
    report = reported["report"]
    assert report["auc"] == pytest.approx(auc(scores, truth > 0.5, truth < 0.5))
    counts = [int((truth > 0.5).sum()), int((truth < 0.5).sum()), int((truth == 0.5).sum())]
    assert [report[name] for name in ("right", "wrong", "neither")] == counts
    assert min(counts) > 0


def test_advantages_are_those_of_the_signal_and_the_shape_stage(reported, traces) -> None:
    """The same solutions as rollouts of the policy: cut, scored and shaped as a run does it."""
    tokenizer = load_tokenizer(POLICY)
    texts = ["\n".join(steps) for _, steps in traces]
    rollouts = pa.Table.from_pylist(
        [
            {"group_id": prompt, "sample_index": at % 3, "rollout_id": f"{prompt}/{at % 3}", "prompt_token_ids": [1],
             "token_ids": (ids := tokenizer(text).input_ids), "text": text, "behavior_logprobs": [-1.0] * len(ids),
             "loss_mask": [True] * len(ids), "finish_reason": "stop", "seed": at, "answer": None}
            for at, ((prompt, _), text) in enumerate(zip(traces, texts, strict=True))
        ],
        schema=ROLLOUTS,
    )  # fmt: skip
    names = dict.fromkeys(prompt for prompt, _ in traces)
    prompts = pa.Table.from_pylist([{"prompt_id": n, "prompt": n, "source": "t"} for n in names], schema=PROMPTS)
    signal = build_signal("prm", {"model": PRM, "engine": {"kind": "transformers"}, "separator": "\n"})
    signal.setup(POLICY)
    scored = signal.score(rollouts, {"prompts": prompts})
    table = rollouts.append_column("process_scores", scored["process_scores"])
    shaped = shape(table.append_column("process_ends", scored["process_ends"]), shaping({}))
    advantages = [
        np.array(of_tokens)[np.array(ends) - 1]
        for of_tokens, ends in zip(
            token_advantages(shaped).to_pylist(), scored["process_ends"].to_pylist(), strict=True
        )
    ]
    truth = np.concatenate([check_steps(*trace) for trace in traces])
    advantage = np.concatenate(advantages)
    found = reported["report"]["advantages"]
    assert reported["report"]["unplaced"] == 0
    assert found["right"] == pytest.approx(advantage[truth > 0.5].mean(), abs=1e-5)
    assert found["wrong"] == pytest.approx(advantage[truth < 0.5].mean(), abs=1e-5)
    assert found["right_punished"] == pytest.approx((advantage[truth > 0.5] < 0).mean())
    fits = np.where(truth > 0.5, advantage > 0, advantage < 0)
    assert found["agreement"] == pytest.approx(fits[truth != 0.5].mean())
    assert shaping({}).weights == Weights(process=1.0, outcome=0.0, format=0.0)


def test_saved_scores_give_the_same_report(reported, labels: Path, capsys) -> None:
    saved = str(labels.with_name("scores.jsonl"))
    command = ["prm-check", "--labels", f"trl:{labels}", "--scores", saved, "--tokenizer", POLICY]
    assert main([*command, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == reported["report"] | {"unscored": {"not_stored": 1}}
    assert main([*command, "--shape", "k=0"]) == 0
    said = capsys.readouterr().out
    assert "First wrong step" in said
    assert "What the advantages would be" in said
    assert f"AUC {again['auc']:.3f}, within problems {again['auc_in_problem']:.3f}" in said
    assert "Solutions without scores: 1 not_stored." in said


def test_the_models_own_options_are_checked_before_anything_is_read(labels: Path, capsys) -> None:
    command = ["prm-check", "--labels", f"trl:{labels}", "--model", PRM, *ENGINE]
    assert main([*command, "--set", "tag= ки"]) == 2
    assert "does not know" in capsys.readouterr().err
    assert main([*command, "--set", "tagg=x"]) == 2
    assert "tagg" in capsys.readouterr().err


def test_scores_are_saved_where_the_labels_are_refused(tmp_path: Path, capsys) -> None:
    labels, saved = tmp_path / "labels.jsonl", tmp_path / "scores.jsonl"
    labels.write_text(json.dumps({"prompt": "1+1=?", "completions": ["1+1=2", "#2"], "labels": [1, 1]}) + "\n{}\n")
    command = ["prm-check", "--labels", f"trl:{labels}"]
    assert main([*command, "--model", PRM, *ENGINE, "--save-scores", str(saved)]) == 2
    assert "more than 5% is refused" in capsys.readouterr().err
    assert main([*command, "--scores", str(saved), "--max-reject-rate", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["right"] == 2


def test_steps_that_the_tokenizer_cannot_spell_have_no_advantage(tmp_path: Path, capsys) -> None:
    """The demo's policy has no capital letters but A; the other figures are there all the same."""
    labels, scores = tmp_path / "labels.jsonl", tmp_path / "scores.jsonl"
    labels.write_text(json.dumps({"prompt": "1?", "completions": ["Why", "a"], "labels": [True, False]}))
    scores.write_text(json.dumps({"key": "1", "scores": [0.9, 0.1]}))
    command = ["prm-check", "--labels", f"trl:{labels}", "--scores", str(scores), "--tokenizer", POLICY, "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unplaced"], found["advantages"], found["auc"]) == (1, None, 1.0)
