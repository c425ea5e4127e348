"""Two gloo ranks under torchrun, against one process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.cli.parser import main
from pipelines.demo.assets import asset_folder
from tests.trainer.rows import changed, gradient_of, largest_difference, random_rows, split_groups, step_of
from trainer import TrainOptions, train
from trainer.checkpoint import complete_checkpoints
from trainer.distributed import World
from trainer.metrics import read_metrics
from trainer.policy import load_policy

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=4, batch_size=2, kl_coef=0.01, micro_batch_tokens=40, save_every=1, device="cpu",
    tensorboard=False, old_policy="recompute",
)  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(**given: Any) -> subprocess.CompletedProcess:
    script = str(Path(__file__).with_name("ranks.py"))
    return subprocess.run(
        [*TORCHRUN, script, json.dumps(given)], check=False, timeout=500, capture_output=True, text=True
    )


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def what_was_fed(folder: Path) -> list[tuple]:
    keys = ("step", "rollouts", "tokens", "advantage_mean", "advantage_min", "advantage_p50", "lr")
    return [tuple(line[key] for key in keys) for line in read_metrics(folder)]


# 3 groups of 4 in small micro-batches; and 5 rollouts, of which one rank has 3 and the other a pass without a token.
# Few rollouts far from their sampler nearly cancel, which costs float32 a digit.
@pytest.mark.parametrize(("groups", "size", "budget", "limit"), [(3, 4, 40, 1e-6), (5, 1, 1, 1e-5)])
def test_the_gradient_of_two_ranks_is_that_of_one_process(tied_policy_folder, tmp_path, groups, size, budget, limit):
    options = replace(OPTIONS, old_policy="behavior")
    arguments = {"policy": tied_policy_folder, "out": str(tmp_path), "groups": groups, "size": size, "budget": budget}
    done = torchrun(what="gradient", options=asdict(options), **arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "gradient.pt")
    assert len(found["counts"]) == 2
    assert len(found["counts"][0]) == len(found["counts"][1]) > 1
    assert size > 1 or 0 in found["counts"][1]
    rows = random_rows(groups=groups, size=size)
    step = step_of(rows, budget=budget, temperature=0.7)
    alone = gradient_of(load_policy(tied_policy_folder, options), step, options)
    assert largest_difference(found["gradients"], {k: v for k, v in alone.items() if k != "loss"}) < limit


def test_two_ranks_killed_and_resumed_by_one_feed_the_same_steps_and_end_close(make_shaped, policy_folder, tmp_path):
    shaped = make_shaped(split_groups(ROWS, 2))
    given = {"shaped": shaped, "policy": policy_folder, "options": asdict(OPTIONS)}
    killed = torchrun(what="train", out=str(tmp_path / "killed"), kill_after=2, **given)
    assert killed.returncode != 0
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path / "killed" / "state")] == [1]

    resumed = train([shaped], policy=policy_folder, out=str(tmp_path / "killed"), options=OPTIONS)
    whole = train([shaped], policy=policy_folder, out=str(tmp_path / "whole"), options=OPTIONS)
    both = torchrun(what="train", out=str(tmp_path / "both"), kill_after=None, **given)
    assert both.returncode == 0, both.stderr[-3000:]

    expected = weights(whole.policy_dir)
    start = weights(policy_folder)
    for folder in (Path(resumed.policy_dir), tmp_path / "both" / "policy"):
        assert what_was_fed(folder.parent) == what_was_fed(tmp_path / "whole")
        found = weights(folder)
        assert found.keys() == expected.keys()
        for name in found:
            moved = float((expected[name] - start[name]).abs().max())
            assert float((found[name] - expected[name]).abs().max()) < 0.02 * moved, name


def test_only_rank_0_ever_holds_the_whole_model_in_host_memory(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=352, num_hidden_layers=16, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    whole, block = (4 * sum(p.numel() for p in part.parameters()) for part in (model, model.model.layers[0]))
    model.save_pretrained(tmp_path / "model")
    script = str(Path(__file__).with_name("host_memory.py"))
    command = [*TORCHRUN, script, str(tmp_path / "model"), str(tmp_path)]
    done = subprocess.run(command, check=False, timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (peak_0, held_0), (peak_1, held_1) = (
        map(int, (tmp_path / f"rank-{rank}.txt").read_text().split()) for rank in range(2)
    )
    assert 4 * (held_0 + held_1) == whole
    assert whole < peak_0  # so a whole model would be seen
    assert 4 * held_1 < peak_1 < 4 * held_1 + 2 * block < 0.65 * whole  # its share, one block and room to cut it


def test_a_rank_that_stops_stops_the_others_with_its_reason(make_shaped, policy_folder, tmp_path):
    behavior = tuple(-200.0 if m else 0.0 for m in ROWS[7].mask)
    rows = changed(ROWS, 7, behavior=behavior, advantages=(-1.0, -1.0))
    options = asdict(replace(OPTIONS, old_policy="behavior", batch_size=6))
    given = {"shaped": make_shaped([rows]), "policy": policy_folder, "options": options, "kill_after": None}
    (tmp_path / "out").mkdir()
    torchrun(what="train", out=str(tmp_path / "out"), **given)
    errors = [(tmp_path / "out" / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "NonFiniteTrainingError" in errors[0]
    assert ROWS[7].rollout_id in errors[0]


def test_the_command_runs_under_torchrun_and_speaks_once(tmp_path):
    pairs = pa.table({"prompt": ["1a+2b?", "3a+4b?"] * 4, "completion": ["A3.", "A7."] * 4})
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    command = [*TORCHRUN, "-m", "pipelines.cli.parser", "sft", str(tmp_path / "pairs.parquet"), "--json"]
    command += ["--policy", str(asset_folder("policy")), "--out", str(tmp_path / "out")]
    for option in ('device="cpu"', "tensorboard=false", "batch_size=4"):
        command += ["--set", option]
    done = subprocess.run(command, check=False, timeout=500, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["metrics"]["rollouts"] == 8
    assert len(read_metrics(tmp_path / "out")) == 2


def test_other_commands_are_refused_on_several_ranks(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["status", "somewhere"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_shares_are_equally_many_and_hold_everything():
    shares = [World(rank, 3).share(list(range(7)), filler=-1) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, -1], [2, 5, -1]]


def test_what_rank_0_raises_is_raised_where_one_process_is_all():
    with pytest.raises(ZeroDivisionError):
        World().on_main(lambda: 1 // 0)
    with pytest.raises(KeyError):
        World().agree(KeyError("x"))
