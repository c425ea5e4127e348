"""Real steps of TRL's GRPOTrainer on a CPU, with token advantages: `make test-peers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import tiny
import torch
import trl
from datasets import Dataset

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from pass_ops.errors import LengthMismatchError, OptionError
from passrl_integrations.trl import PassGRPOTrainer
from trainer.options import TrainOptions

GENERATIONS = 4
PROMPTS = ["one plus one is", "say a word.", "what is it?", "count to 3"]
STEPWISE = ShapingConfig(weights=Weights(process=1.0, outcome=1.0, format=0.5))
TOKENWISE = ShapingConfig(signal="kl", eta=0.3, standardize="abs_max", weights=Weights(format=0.0))


def vowels(completions, **_):
    return [sum(text.count(letter) for letter in "aeiou") / 4 for text in completions]


def tidy(completions, **_):
    return [float(len(text) % 2) for text in completions]


def steps(completion_ids, **_):
    """Four tokens a step; the second completion of all has none."""
    found = []
    for ids in completion_ids:
        ends = [*range(4, len(ids), 4), len(ids)]
        found.append(([sum(ids[a:b]) / 50 for a, b in zip([0, *ends], ends, strict=False)], ends))
    found[1] = None
    return found


def tokens(completion_ids, **_):
    return [[(token % 7 - 3) / 3 for token in ids] for ids in completion_ids]


class Recording(PassGRPOTrainer):
    """Keeps what each loss was computed from, and how long what took."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.generated, self.losses, self.shaping_seconds, self.step_seconds = [], [], [], []

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        self.generated.append((dict(output), self._rewards_and_signals))
        return output

    def _token_advantages(self, mask):
        started = time.perf_counter()
        found = super()._token_advantages(mask)
        self.shaping_seconds.append(time.perf_counter() - started)
        return found

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad():
            logprobs, *_ = self._get_per_token_logps_and_entropies(
                model, ids, attention, inputs["completion_ids"].size(1)
            )
        self.losses.append((loss.item(), logprobs, inputs))
        return loss

    def training_step(self, *arguments, **keywords):
        started = time.perf_counter()
        found = super().training_step(*arguments, **keywords)
        self.step_seconds.append(time.perf_counter() - started)
        return found


def trained(folder: Path, *, process, shaping, loss_type="grpo", length=24, model=None, **config):
    settings = {
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_steps": 2, "beta": 0.0,
        "num_generations": GENERATIONS, "loss_type": loss_type, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
        "max_completion_length": length, "temperature": 1.0, "use_cpu": True, "bf16": False, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "seed": 0, "log_completions": False,
        "gradient_checkpointing": False,
    } | config  # fmt: skip
    formatted = shaping.weights.format != 0
    trainer = Recording(
        model=model or tiny.model(), args=trl.GRPOConfig(output_dir=str(folder), **settings),
        reward_funcs=[vowels, tidy], train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=tiny.tokenizer(), process_func=process, shaping=shaping,
        format_func="tidy" if formatted else None,
    )  # fmt: skip
    trainer.train()
    return trainer


def expected(seen, shaping, generations=GENERATIONS):
    """What `pass_ops.shape` gives for the same completions as a plain table; TRL's masks count all of their tokens."""
    rewards, signals, lengths = seen
    columns = {
        "group_id": pa.array([f"prompt {row // generations}" for row in range(len(lengths))]),
        "loss_mask": pa.array([[True] * length for length in lengths]),
    }
    kind = pa.list_(pa.float32())
    if shaping.signal == "prm":
        columns["process_scores"] = pa.array([s and s[0] for s in signals], kind)
        columns["process_ends"] = pa.array([s and s[1] for s in signals], pa.list_(pa.int32()))
    else:
        columns["process_scores"] = pa.array(signals, kind)
    outcome = rewards[:, 0] if shaping.weights.format else rewards.sum(1)
    columns["outcome_reward"] = pa.array(outcome.tolist(), pa.float32())
    if shaping.weights.format:
        columns["format_reward"] = pa.array(rewards[:, 1].tolist(), pa.float32())
    return token_advantages(shape(pa.table(columns), shaping)).to_pylist()


@pytest.mark.parametrize(("process", "shaping"), [(steps, STEPWISE), (tokens, TOKENWISE)], ids=["steps", "tokens"])
def test_token_advantages_are_those_of_pass_ops(tmp_path, process, shaping):
    trainer = trained(tmp_path, process=process, shaping=shaping)
    assert len(trainer.generated) == 2
    for output, seen in trainer.generated:
        found = output["advantages"]
        assert found.shape == output["completion_ids"].shape
        for row, values in enumerate(expected(seen, shaping)):
            assert found[row, : len(values)].tolist() == pytest.approx(values, abs=1e-6)
            assert not found[row, len(values) :].any()
        assert (found.std(dim=1) > 0).any()  # not one number a completion
    if process is steps:
        assert not trainer.generated[0][0]["advantages"][1].any()  # its signal was missing
    assert any(entry.get("grad_norm", 0) > 0 for entry in trainer.state.log_history)
    logged = list(trainer._logs["advantages"])
    output = trainer.generated[-1][0]
    means = (output["advantages"] * output["completion_mask"]).sum(1) / output["completion_mask"].sum(1)
    assert logged == pytest.approx(means.tolist(), abs=1e-6)


def test_a_group_on_two_processes_is_shaped_as_one(tmp_path):
    """Two ranks over gloo, each with four of the eight completions of a prompt, in widths of their own."""
    script = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    here = Path(__file__).parent
    done = subprocess.run(
        [*script, str(here / "trl_rank.py"), str(tmp_path)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["rewards"] == ranks[1]["rewards"]  # TRL gathers rewards itself
    seen = (torch.tensor(ranks[0]["rewards"]), [s for rank in ranks for s in rank["signals"]],
            [length for rank in ranks for length in rank["lengths"]])  # fmt: skip
    found = [row for rank in ranks for row in rank["advantages"]]
    for row, values in zip(found, expected(seen, STEPWISE, generations=8), strict=True):
        assert row[: len(values)] == pytest.approx(values, abs=1e-6)
        assert not any(row[len(values) :])
    assert ranks[0]["weights"] == ranks[1]["weights"]
    halves = [expected((seen[0][at : at + 4], seen[1][at : at + 4], seen[2][at : at + 4]), STEPWISE) for at in (0, 4)]
    assert found[0][0] != pytest.approx(halves[0][0][0], abs=1e-3)  # what a rank alone would have made


@pytest.mark.parametrize(
    ("loss_type", "options"),
    [("grpo", {}), ("bnpo", {"aggregation": "token_mean"}), ("grpo", {"old": True})],
    ids=["grpo", "bnpo", "grpo, second pass over the same completions"],
)
def test_losses_are_those_of_our_trainer(tmp_path, loss_type, options):
    again = {"num_iterations": 2, "max_steps": 2} if options.pop("old", False) else {}
    trainer = trained(tmp_path, process=steps, shaping=STEPWISE, loss_type=loss_type, epsilon=0.2, **again)
    settings = TrainOptions(clip_low=0.2, clip_high=0.2, **options)
    moved = 0.0
    for loss, logprobs, inputs in trainer.losses:
        mask = inputs["completion_mask"]
        old = inputs.get("old_per_token_logps", logprobs)
        moved = max(moved, (old - logprobs).abs().max().item())
        ours = tiny.our_loss(logprobs, old=old, advantages=inputs["advantages"], mask=mask, options=settings)
        assert loss * 2 == pytest.approx(ours.item(), abs=1e-5)  # TRL divides by the two accumulation steps
    assert len(trainer.losses) == 4
    assert bool(again) == (moved > 1e-4)


def test_a_signal_of_the_wrong_length_is_refused_by_name(tmp_path):
    with pytest.raises(LengthMismatchError, match=r"^the process signal has 3 entries for 16 completions"):
        trained(tmp_path, process=lambda **_: [None] * 3, shaping=STEPWISE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shaping": STEPWISE, "process_func": steps}, "shaping reads the format stream, and no reward function is it"),
        ({"shaping": STEPWISE, "process_func": steps, "format_func": "neat"}, "format_func: 'neat' is none of"),
        ({"shaping": TOKENWISE}, "estimator 'pass' reads a process signal"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_first_token(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        PassGRPOTrainer(
            model=tiny.model(), reward_funcs=[vowels], train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            args=trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, num_generations=2, report_to=[]),
            processing_class=tiny.tokenizer(), **options,
        )  # fmt: skip


def test_shaping_takes_less_than_a_hundredth_of_a_step(tmp_path, record_property):
    """Sampling, rewards and updates of a model of half a million parameters, 16 completions of up to 64 tokens."""
    trainer = trained(tmp_path, process=tokens, shaping=TOKENWISE, length=64, max_steps=3,
                      model=tiny.model(width=128, layers=3))  # fmt: skip
    shaping = sum(trainer.shaping_seconds[1:])  # the first one compiles
    steps_ = sum(trainer.step_seconds[2:])
    figures = {"shaping_s": shaping, "steps_s": steps_, "share": shaping / steps_}
    print(json.dumps(figures))
    record_property("overhead", figures)
    assert shaping < 0.01 * steps_
