"""verl's own registry, reward manager, trainer and actor, on a CPU: `make test-peers`.

A step is the methods of verl's trainer in its order, `_compute_old_log_prob`, `_compute_advantage` and `_update_actor`,
with verl's FSDP engine as the actor. What does not run here is sampling (vLLM or SGLang servers); for the store a
dictionary stands in (`verl_batch`), and the Ray workers are one object in this process.
"""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
import transfer_queue as tq
import verl_batch
import verl_on_cpu
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoModelForCausalLM
from verl import DataProto
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils import tensordict_utils
from verl.workers.config.actor import ActorConfig, PolicyLossConfig
from verl.workers.utils.losses import ppo_loss
from verl_batch import LENGTHS, OUTCOME_ONLY, PASS, UIDS, algorithm, expected, masks, padded, put

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from pass_ops.errors import MissingColumnError
from trainer.options import TrainOptions

RIGHT_OR_WRONG = [1.0, 0.0, 0.0, 1.0, 0.0]
MODES = [("seq-mean-token-mean", {}), ("token-mean", {"aggregation": "token_mean"})]


def check(found: torch.Tensor, wanted: list[list[float]]) -> None:
    for row, values in enumerate(wanted):
        assert found[row, : len(values)].tolist() == pytest.approx(values, abs=1e-6)
        assert not found[row, len(values) :].any()


def proto() -> DataProto:
    rewards = torch.zeros(5, 7)
    for row, (length, outcome) in enumerate(zip(LENGTHS, RIGHT_OR_WRONG, strict=True)):
        rewards[row, length - 1] = outcome
    batch = TensorDict({"token_level_rewards": rewards, "response_mask": padded(masks())}, batch_size=5)
    return DataProto(batch=batch, non_tensor_batch={"uid": np.array(UIDS, dtype=object)})


def test_the_registry_of_verl_calls_the_estimator(monkeypatch):
    monkeypatch.setattr(verl_batch, "OUTCOME", RIGHT_OR_WRONG)  # verl's rewards alone cannot be missing
    shaping = ShapingConfig(estimator="grpo_outcome", weights=Weights(format=0.0))
    data = compute_advantage(proto(), adv_estimator="pass", config=algorithm(OUTCOME_ONLY))
    check(data.batch["advantages"], expected(shaping, process=False))
    assert torch.equal(data.batch["advantages"], data.batch["returns"])
    theirs = compute_advantage(proto(), adv_estimator="grpo", config=algorithm({}))
    assert torch.allclose(theirs.batch["advantages"], data.batch["advantages"], atol=1e-6)


def test_without_the_trainers_the_missing_signal_is_named():
    with pytest.raises(MissingColumnError, match=r"set trainer\.v1\.trainer_mode to one of them"):
        compute_advantage(proto(), adv_estimator="pass", config=algorithm(PASS))


@pytest.fixture
def store(monkeypatch):
    """verl's calls of its store go to `Rows`: TransferQueue itself needs a Ray cluster."""
    rows = verl_batch.Rows()
    monkeypatch.setattr(tq, "kv_batch_put", rows.put)
    monkeypatch.setattr(tq, "kv_batch_get", rows.get)
    return rows


def trainer_of(options, **roles):
    """The trainer that this plug-in registers with verl, of which nothing but a configuration exists."""
    trainer = get_trainer_cls("pass_sync").__new__(get_trainer_cls("pass_sync"))
    roles = {"rollout": {"n": 1, "temperature": 1.0, "calculate_log_probs": False}, **roles}
    trainer.config = OmegaConf.create({"algorithm": algorithm(options), "actor_rollout_ref": roles})
    return trainer


def column(batch, name: str) -> torch.Tensor:
    found = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[name])
    return found[name].to_padded_tensor(0.0)


def computed(batch, options) -> torch.Tensor:
    """What verl's own `_compute_advantage` leaves in the store."""
    return column(trainer_of(options)._compute_advantage(batch, metrics={}), "advantages")


@pytest.mark.parametrize("colocated", [False, True])
def test_step_scores_reach_the_advantages_of_verls_trainer(store, colocated):
    found = computed(put(colocated), PASS)
    check(found[:5], expected())
    assert not found[2].any()  # no process signal
    assert not found[4].any()  # no outcome
    assert not found[5].any()  # verl's padding
    assert len(set(found[0, [0, 1, 4]].tolist())) > 1


def test_the_reference_model_is_the_teacher_where_no_signal_is_carried(store, monkeypatch):
    monkeypatch.setattr(verl_batch, "SIGNALS", [None] * 5)
    monkeypatch.setattr(verl_batch, "OUTCOME", RIGHT_OR_WRONG)
    shaping = ShapingConfig(signal="kl", weights=Weights(format=0.0))
    found = computed(put(False, teacher=True), {"signal": "kl", "weights": {"format": 0.0}})
    order = sorted(range(5), key=UIDS.__getitem__)
    scores = [[(-0.25 + t / 10) * m for t, m in enumerate(masks()[row], start=1)] for row in order]
    table = pa.table(
        {
            "group_id": [UIDS[row] for row in order],
            "loss_mask": [[bool(m) for m in masks()[row]] for row in order],
            "process_scores": pa.array(scores, pa.list_(pa.float32())),
            "outcome_reward": pa.array([RIGHT_OR_WRONG[row] for row in order], pa.float32()),
        }
    )
    wanted = dict(zip(order, token_advantages(shape(table, shaping)).to_pylist(), strict=True))
    check(found[:5], [[a * m for a, m in zip(wanted[row], masks()[row], strict=True)] for row in range(5)])


def actor_config(mode: str) -> ActorConfig:
    return ActorConfig(
        strategy="fsdp2", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, clip_ratio_low=0.2,
        clip_ratio_high=0.28, clip_ratio_c=3.0, policy_loss=PolicyLossConfig(), loss_agg_mode=mode,
    )  # fmt: skip


def ours(options: dict) -> TrainOptions:
    return TrainOptions(clip_low=0.2, clip_high=0.28, dual_clip=3.0, **options)


@pytest.mark.parametrize(("mode", "options"), MODES)
def test_losses_are_those_of_our_trainer(store, mode, options):
    mask = padded(masks()).bool()
    advantages = torch.nn.functional.pad(computed(put(False), PASS)[:5], (0, 1))
    torch.manual_seed(1)
    old = -torch.rand(mask.shape) * 3
    logprobs = old + torch.randn(mask.shape) * 0.3
    config = actor_config(mode)
    config.global_batch_info.update({"dp_size": 1, "batch_num_tokens": mask.sum(), "global_batch_size": 5})
    theirs, _ = get_policy_loss_fn("vanilla")(
        old_log_prob=old, log_prob=logprobs, advantages=advantages, response_mask=mask, loss_agg_mode=mode,
        config=config,
    )  # fmt: skip
    loss = tiny.our_loss(logprobs, old=old, advantages=advantages, mask=mask, options=ours(options))
    assert theirs.item() == pytest.approx(loss.item(), abs=1e-5)
    assert abs(loss.item()) > 1e-3


class Workers:
    """verl's actor as the trainer's worker group hands it a batch: fields out of the store, results back into it."""

    def __init__(self, actor) -> None:
        self.actor = actor

    def _data(self, batch) -> TensorDict:
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=verl_batch.TRAINED)
        tensordict_utils.assign_non_tensor(data, **batch.extra_info)
        return data

    def compute_log_prob(self, batch):
        found = self.actor.infer_batch(self._data(batch)).select("log_probs", "entropy")
        return tq.kv_batch_put(keys=batch.keys, fields=found, partition_id=batch.partition_id)

    def update_actor(self, batch):
        return self.actor.train_mini_batch(self._data(batch))


STEP = {"calculate_entropy": False, "entropy_coeff": 0.0, "ppo_epochs": 2, "shuffle": False,
        "data_loader_seed": 1, "loss_scale_factor": None}  # fmt: skip


def verls_step(folder: str, mode: str, *, rows: int = 5):
    """(the batch, metrics, the actor, seconds by part) after a step of verl: two epochs over the batch."""
    batch = put(False)
    batch = tq.KVBatchMeta(keys=batch.keys[:rows], partition_id=batch.partition_id, tags=batch.tags[:rows])
    trainer = trainer_of(PASS, actor={**STEP, "ppo_mini_batch_size": rows, "loss_agg_mode": mode})
    actor = verl_on_cpu.actor(folder, lr=1e-2)
    actor.set_loss_fn(partial(ppo_loss, config=actor_config(mode)))
    trainer.actor_rollout_wg, metrics, seconds = Workers(actor), {}, {}
    for work in (trainer._compute_old_log_prob, trainer._compute_advantage, trainer._update_actor):
        started = time.perf_counter()
        batch = work(batch, metrics=metrics)
        seconds[work.__name__] = time.perf_counter() - started
    return batch, metrics, actor, seconds


def our_step(folder: str, batch, options) -> tuple[list[float], torch.nn.Module]:
    """(losses, the model) after the same two updates, with `trainer`'s loss and plain AdamW."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01, eps=verl_on_cpu.EPS)
    old, advantages, mask = (column(batch, name) for name in ("old_log_probs", "advantages", "response_mask"))
    losses = []
    for _ in range(2):
        kept = []
        for row in range(5):
            before, completion = verl_batch.prompt(row), verl_batch.response(row)
            logits = model(torch.tensor([[*before, *completion]])).logits[0, len(before) - 1 : -1]
            kept.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
        logprobs = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
        loss = tiny.our_loss(logprobs, old=old, advantages=advantages, mask=mask, options=options)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize(("mode", "options"), MODES)
def test_a_step_of_verls_trainer_and_actor_is_the_step_of_our_loss(store, tmp_path, mode, options):
    folder = tiny.saved(tmp_path)
    batch, metrics, actor, _ = verls_step(folder, mode)
    check(column(batch, "advantages"), expected())
    losses, model = our_step(folder, batch, ours(options))
    assert metrics["actor/loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3  # the second update has ratios of its own
    theirs = {name: weight.full_tensor() for name, weight in actor.engine.module.state_dict().items()}
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=0)
    assert any((weight - before[name]).abs().max() > 1e-2 for name, weight in theirs.items())


def test_advantages_take_less_than_a_hundredth_of_a_step(store, monkeypatch, tmp_path, record_property):
    """16 completions of 96 tokens, a model of half a million parameters, two epochs; without sampling, so an upper
    bound. All of `_compute_advantage` is counted, verl's own part too; the first call, which compiles, is not."""
    rows, length = 16, 96
    changed = {
        "UIDS": [str(row // 8) for row in range(rows)], "LENGTHS": [length] * (rows - 1) + [length - 1],
        "SIGNALS": [([row / rows, 0.5], [40, length - (row == rows - 1)]) for row in range(rows)],
        "OUTCOME": [float(row % 2) for row in range(rows)], "FORMAT": [1.0] * rows,
    }  # fmt: skip
    computed(put(False), PASS)
    for name, values in changed.items():
        monkeypatch.setattr(verl_batch, name, values)
    *_, seconds = verls_step(tiny.saved(tmp_path, width=128, layers=3), "token-mean", rows=rows)
    figures = {**seconds, "share": seconds["_compute_advantage"] / sum(seconds.values())}
    print(json.dumps(figures))
    record_property("overhead", figures)
    assert figures["share"] < 0.01


def test_what_the_estimator_costs_beside_verls_own(capsys):
    """1,024 completions of up to 1,024 tokens through verl's estimator of GRPO, and through ours."""
    rows, width = 1024, 1024
    torch.manual_seed(0)
    mask = (torch.arange(width) < torch.randint(256, width + 1, (rows, 1))).long()
    index = np.repeat(np.arange(rows // 8), 8)
    rewards = torch.zeros(rows, width)
    rewards[:, 100] = torch.randint(0, 2, (rows,)).float()
    config = algorithm(OUTCOME_ONLY)
    seconds = {}
    for name in ("grpo", "pass"):
        for _ in range(3):
            started = time.perf_counter()
            get_adv_estimator_fn(name)(token_level_rewards=rewards, response_mask=mask, index=index, config=config)
            seconds[name] = time.perf_counter() - started
    with capsys.disabled():
        print(json.dumps(seconds))
    assert seconds["pass"] < 1.0
