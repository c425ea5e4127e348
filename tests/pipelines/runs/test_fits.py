"""What every stage holds on a GPU, told before anything runs, and refused where it does not fit."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from pipelines.demo.assets import asset_folder
from pipelines.engines.machine import Gpu, Machine, Memory
from pipelines.models.folder import tensor_shapes
from pipelines.options import build
from pipelines.runs import fits
from pipelines.runs.check import RunRefused, check_run
from pipelines.runs.config import RunConfig
from pipelines.runs.fits import Cards, cards_here, parse_cards, stage_memory
from pipelines.runs.progress import Reporter
from pipelines.runs.run import Run
from trainer.gpu_memory import GIB

STAGES = ("generate", "score", "shape", "train", "eval")


@pytest.fixture
def prompts(tmp_path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "1a+2b?", "answer": "3"}\n' * 4)
    return str(file)


def config(prompts: str, **sections) -> RunConfig:
    given = {
        "prompts": {"source": prompts},
        "policy": {"model": str(asset_folder("policy"))},
        "engine": {"max_model_len": 64},
        "signals": {"teacher": {"signal": "logprobs", "model": str(asset_folder("policy"))}},
        "shape": {"outcome": "teacher"},
        "run": {"accept": ["disk_space"]},
    }
    return build(RunConfig, given | sections, where="test")


def held(made: RunConfig, cards: Cards, signals=None):
    run = Run(config=made, url="nowhere", reporter=Reporter(quiet=True))
    return stage_memory(made, policy=made.policy.model, signals=run.signals, stages=STAGES, cards=cards)


@pytest.mark.parametrize(("text", "count", "gib"), [("80 GiB", 1, 80), ("8 x 80 GiB", 8, 80), ("2x23.5gib", 2, 23.5)])
def test_gpus_are_named_by_number_and_size(text, count, gib):
    assert parse_cards(text) == Cards(count=count, memory=int(gib * GIB))


@pytest.mark.parametrize("text", ["80", "0 GiB", "0 x 80 GiB", "H100", "", "-1 GiB"])
def test_what_names_no_gpus_is_refused(text):
    with pytest.raises(ValueError, match="8 x 80 GiB"):
        parse_cards(text)


def test_every_model_of_a_run_is_listed_with_what_it_holds(prompts, tmp_path):
    shutil.copytree(asset_folder("policy"), tmp_path / "teacher")
    teacher = {"teacher": {"signal": "logprobs", "model": str(tmp_path / "teacher")}}
    found = held(config(prompts, signals=teacher), Cards(count=2, memory=80 * GIB))
    assert [(one.stage, one.gpus) for one in found] == [("policy", 1), ("signals.teacher", 1), ("train", 2)]
    assert all(one.problem is None and 0 < one.holding.total < one.usable for one in found)
    assert set(found[0].as_json()["gib"]) == {"weights", "activations", "graphs", "keys and values"}
    assert found[0].holding.parts["weights"] == 4 * parameters()
    shared = held(config(prompts), Cards(count=2, memory=80 * GIB))
    assert [one.stage for one in shared] == ["policy", "train"]  # the policy's own engine scores


def parameters() -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(str(asset_folder("policy"))).values())


def test_stages_that_compute_elsewhere_are_left_out(prompts):
    recorded = config(prompts, engine={"kind": "recorded", "recording": "synthetic:0"}, train={"device": "cpu"})
    assert held(recorded, Cards(memory=80 * GIB)) == []


def test_a_tiny_card_is_refused_with_the_options_that_help_and_can_be_accepted(prompts, tmp_path, monkeypatch):
    small = Machine(gpus=(Gpu(index=0, name="small", memory=Memory(free=0, total=GIB)),))
    monkeypatch.setattr(fits, "this_machine", lambda: small)
    run = Run(config=config(prompts), url=str(tmp_path / "run"), reporter=Reporter(quiet=True))
    with pytest.raises(RunRefused) as refused:
        check_run(run, stages=("train",))
    said = str(refused.value)
    for named in ("train: the update of", "needs about", "It fits with", "gpu_memory"):
        assert named in said
    accepted = config(prompts, run={"accept": ["disk_space", "gpu_memory"]})
    check_run(Run(config=accepted, url=str(tmp_path / "run"), reporter=Reporter(quiet=True)), stages=("train",))


def test_this_machines_gpus_count_where_the_run_computes_here(prompts, monkeypatch):
    sizes = (24 * GIB, 80 * GIB)
    cards = tuple(Gpu(index=i, name="", memory=Memory(free=0, total=size)) for i, size in enumerate(sizes))
    monkeypatch.setattr(fits, "this_machine", lambda: Machine(gpus=cards))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert cards_here(config(prompts)) == Cards(count=1, memory=24 * GIB)
    on_cpu = config(prompts, engine={"device": "cpu"}, train={"device": "cpu"})
    assert cards_here(on_cpu) is None
    monkeypatch.setattr(fits, "this_machine", lambda: Machine(problem="no driver"))
    assert cards_here(config(prompts)) is None


def test_more_tensor_parallel_ranks_than_gpus_are_a_problem(prompts):
    wide = config(prompts, engine={"max_model_len": 64, "extra": {"tensor_parallel_size": 4}})
    policy, *_ = held(wide, Cards(count=2, memory=80 * GIB))
    assert "tensor_parallel_size is 4, but there are 2 GPUs" in policy.problem


def test_bfloat16_weights_on_several_gpus_are_a_problem_before_anything_runs(prompts):
    train = {"weights_dtype": "bfloat16", "optimizer": "adamw_8bit"}
    for count, refused in ((1, False), (2, True)):
        *_, update = held(config(prompts, train=train), Cards(count=count, memory=80 * GIB))
        assert (update.problem is not None) is refused
    assert "trains on one GPU" in update.problem


def test_dry_run_prints_it(prompts, tmp_path, capsys):
    file = Path(tmp_path / "run.toml")
    file.write_text(
        f'[prompts]\nsource = "{prompts}"\n[policy]\nmodel = "{asset_folder("policy")}"\n'
        '[engine]\nkind = "transformers"\n[generate.sampling]\nmax_tokens = 16\n'
        '[signals.right]\nsignal = "outcome"\nverifier = "exact"\n'
        '[shape]\noutcome = "right"\nestimator = "grpo_outcome"\nweights = { format = 0.0 }\n'
    )
    command = ["rounds", str(file), "--out", str(tmp_path / "run"), "--dry-run", "--gpu"]
    assert main([*command, "8 x 80 GiB"]) in (None, 0)
    told = json.loads(capsys.readouterr().out)["memory"]
    assert [(one["stage"], one["gpus"], one["problem"]) for one in told] == [("policy", 1, None), ("train", 8, None)]
    assert main([*command, "0.5 GiB"]) == 2
    assert "the engine of" in capsys.readouterr().err
