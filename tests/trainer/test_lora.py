"""Adapters: only they learn, they leave in peft's format, and the next round goes on from them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pass_ops.support.extras import MissingExtraError
from tests.trainer.rows import random_rows, split_groups, step_of
from trainer import TrainOptions, train
from trainer.checkpoint import complete_checkpoints
from trainer.errors import AdapterError, PolicyMismatchError
from trainer.metrics import read_metrics
from trainer.model_folder import weights_digest
from trainer.policy import load_policy

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-2, warmup_steps=2, batch_size=2, micro_batch_tokens=40, device="cpu", tensorboard=False, lora_rank=4,
)  # fmt: skip


@pytest.fixture
def run(make_shaped, policy_folder, tmp_path):
    shaped = make_shaped(split_groups(ROWS, 2))

    def call(out: str, *, policy=policy_folder, options=OPTIONS, **arguments):
        return train([shaped], policy=policy, out=str(tmp_path / out), options=options, **arguments)

    return call


def logprobs(folder: str, options: TrainOptions = OPTIONS) -> torch.Tensor:
    (batch,) = step_of(ROWS, reference=False).micro_batches
    with torch.no_grad():
        return load_policy(folder, options).token_outputs(batch).logprobs_N


def test_a_new_adapter_changes_nothing_and_is_the_same_for_the_same_seed(policy_folder):
    plain = logprobs(policy_folder, replace(OPTIONS, lora_rank=0))
    assert torch.allclose(logprobs(policy_folder), plain, atol=1e-6)
    drawn = [load_policy(policy_folder, replace(OPTIONS, seed=seed)).adapter.state_dict() for seed in (0, 0, 1)]
    name = next(name for name in drawn[0] if "lora_A" in name)
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])


def test_the_export_is_an_adapter_that_peft_puts_onto_its_base(run, policy_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    before = weights_digest(Path(policy_folder))
    folder = Path(run("out").policy_dir)
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == policy_folder
    assert (folder / "tokenizer.json").is_file()
    assert weights_digest(Path(policy_folder)) == before
    base = AutoModelForCausalLM.from_pretrained(policy_folder, dtype=torch.float32)
    ids = torch.tensor([[*ROWS[0].prompt, *ROWS[0].tokens]])
    with torch.no_grad():
        plain = base(ids).logits
        theirs = PeftModel.from_pretrained(base, folder)(ids).logits
        ours = load_policy(str(folder), OPTIONS).model(ids).logits
    assert (theirs - plain).abs().max() > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_state_holds_the_adapter_alone_and_the_next_round_goes_on_from_it(run, tmp_path):
    first = run("first")
    size = sum(file.stat().st_size for file in complete_checkpoints(tmp_path / "first" / "state")[-1].folder.iterdir())
    second = run("second", policy=first.policy_dir, state=str(tmp_path / "first"))
    assert [line["update"] for line in read_metrics(tmp_path / "second")] == [4, 5, 6]
    assert weights_digest(Path(second.policy_dir)) != weights_digest(Path(first.policy_dir))
    run("full", options=replace(OPTIONS, lora_rank=0))
    whole = sum(file.stat().st_size for file in complete_checkpoints(tmp_path / "full" / "state")[-1].folder.iterdir())
    assert size < whole / 2


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(run, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, note):
        if done == 2:
            raise Stop

    options = replace(OPTIONS, save_every=1)
    with pytest.raises(Stop):
        run("out", options=options, progress=stop)
    assert weights_digest(Path(run("out", options=options).policy_dir)) == weights_digest(
        Path(run("whole", options=options).policy_dir)
    )


def test_an_adapter_of_another_rank_or_without_its_base_is_refused(run, tmp_path):
    folder = run("out").policy_dir
    with pytest.raises(PolicyMismatchError, match="rank 4, lora_rank is 0"):
        load_policy(folder, replace(OPTIONS, lora_rank=0))
    config = Path(folder) / "adapter_config.json"
    config.write_text(config.read_text().replace('base_model_name_or_path": "', 'base_model_name_or_path": "/gone'))
    with pytest.raises(AdapterError, match=r"names .* as its base model"):
        load_policy(folder, OPTIONS)


def test_without_peft_the_error_names_the_extra(policy_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"passrl\[lora\]"):
        load_policy(policy_folder, OPTIONS)
    load_policy(policy_folder, replace(OPTIONS, lora_rank=0))
