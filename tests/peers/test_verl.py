"""verl's own registry, reward manager, store and losses, on a CPU: `make test-peers`.

What does not run here is what verl has no CPU path for, sampling (vLLM or SGLang servers) and the FSDP or Megatron
actor, and its store, TransferQueue, which needs a Ray cluster: a dictionary stands in for it. The step's advantage
computation is verl's `_compute_advantage`, as the trainer calls it.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
import transfer_queue as tq
from exported import REWARDS, ROWS, exported, weights_of
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.config.actor import ActorConfig, PolicyLossConfig

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from pass_ops.errors import MissingColumnError
from passrl_integrations.verl import CARRIED, reward
from trainer.options import TrainOptions

PASS = {"k": 0.7, "weights": {"process": 1.0, "outcome": 1.0, "format": 0.5}}
SHAPING = ShapingConfig(k=0.7, weights=Weights(format=0.5))
OUTCOME_ONLY = {"estimator": "grpo_outcome", "weights": {"format": 0.0}}
UIDS = ["a", "b", "a", "b", "a"]
LENGTHS = [6, 4, 5, 3, 6]
SIGNALS = [([0.5, 1.0], [2, 6]), ([0.1, 0.2, 0.9], [1, 2, 4]), None, ([0.3], [3]), ([1.0, 0.0, 0.4], [3, 4, 6])]
OUTCOME = [1.0, 0.0, 0.0, 1.0, None]
FORMAT = [1.0, 0.0, 1.0, 1.0, 0.5]


def masks() -> list[list[int]]:
    found = [[1] * length for length in LENGTHS]
    found[0][2:4] = [0, 0]  # a tool spoke
    return found


def expected(shaping: ShapingConfig = SHAPING, *, process=True) -> list[list[float]]:
    """What `shape` gives; 0 where a token does not count."""
    order = sorted(range(5), key=UIDS.__getitem__)
    columns = {
        "group_id": pa.array([UIDS[row] for row in order]),
        "loss_mask": pa.array([[bool(m) for m in masks()[row]] for row in order]),
        "outcome_reward": pa.array([OUTCOME[row] for row in order], pa.float32()),
        "format_reward": pa.array([FORMAT[row] for row in order], pa.float32()),
    }
    if process:
        columns["process_scores"] = pa.array([SIGNALS[r] and SIGNALS[r][0] for r in order], pa.list_(pa.float32()))
        columns["process_ends"] = pa.array([SIGNALS[r] and SIGNALS[r][1] for r in order], pa.list_(pa.int32()))
    found = dict(zip(order, token_advantages(shape(pa.table(columns), shaping)).to_pylist(), strict=True))
    return [[a * m for a, m in zip(found[row], masks()[row], strict=True)] for row in range(5)]


def algorithm(options) -> OmegaConf:
    return OmegaConf.create(
        {"adv_estimator": "pass", "pass_shaping": options, "gamma": 1.0, "lam": 1.0, "use_kl_in_reward": False}
    )


def check(found: torch.Tensor, wanted: list[list[float]]) -> None:
    for row, values in enumerate(wanted):
        assert found[row, : len(values)].tolist() == pytest.approx(values, abs=1e-6)
        assert not found[row, len(values) :].any()


def padded(rows: list[list[float]], width: int = 7) -> torch.Tensor:
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def proto() -> DataProto:
    rewards = torch.zeros(5, 7)
    for row, (length, outcome) in enumerate(zip(LENGTHS, OUTCOME, strict=True)):
        rewards[row, length - 1] = 0.0 if outcome is None else outcome
    batch = TensorDict({"token_level_rewards": rewards, "response_mask": padded(masks())}, batch_size=5)
    return DataProto(batch=batch, non_tensor_batch={"uid": np.array(UIDS, dtype=object)})


def test_the_registry_of_verl_calls_the_estimator(monkeypatch):
    monkeypatch.setitem(globals(), "OUTCOME", [1.0, 0.0, 0.0, 1.0, 0.0])  # verl's rewards alone cannot be missing
    shaping = ShapingConfig(estimator="grpo_outcome", weights=Weights(format=0.0))
    data = compute_advantage(proto(), adv_estimator="pass", config=algorithm(OUTCOME_ONLY))
    check(data.batch["advantages"], expected(shaping, process=False))
    assert torch.equal(data.batch["advantages"], data.batch["returns"])
    theirs = compute_advantage(proto(), adv_estimator="grpo", config=algorithm({}))
    assert torch.allclose(theirs.batch["advantages"], data.batch["advantages"], atol=1e-6)


def test_without_the_trainers_the_missing_signal_is_named():
    with pytest.raises(MissingColumnError, match=r"set trainer\.v1\.trainer_mode to one of them"):
        compute_advantage(proto(), adv_estimator="pass", config=algorithm(PASS))


class Rows:
    """What verl's store does for a trainer, in a dictionary: fields of rows by key, put and taken out again."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, object]] = {}

    def put(self, keys, fields, partition_id, tags=None):
        columns = {
            name: values.unbind() if isinstance(values, torch.Tensor) else list(values)
            for name, values in fields.items()
        }
        for at, key in enumerate(keys):
            row = self.rows.setdefault((partition_id, key), {})
            row.update({name: getattr(values[at], "data", values[at]) for name, values in columns.items()})
        return tq.KVBatchMeta(keys=list(keys), partition_id=partition_id, tags=tags or [{} for _ in keys])

    def get(self, keys, partition_id, select_fields):
        rows = [self.rows[partition_id, key] for key in keys]
        present = [name for name in select_fields if all(name in row for row in rows)]
        return list_of_dict_to_tensordict([{name: row[name] for name in present} for row in rows])


@pytest.fixture
def store(monkeypatch):
    """verl's calls of its store go to `Rows`: TransferQueue itself needs a Ray cluster."""
    rows = Rows()
    monkeypatch.setattr(tq, "kv_batch_put", rows.put)
    monkeypatch.setattr(tq, "kv_batch_get", rows.get)
    return rows


def managed(row: int) -> dict:
    """What verl's reward manager makes of our reward function's answer."""

    def compute_score(data_source, solution_str, ground_truth, extra_info):
        return reward(OUTCOME[row], SIGNALS[row], format=FORMAT[row], acc=1.0)

    ids = torch.arange(2, 2 + LENGTHS[row])
    item = DataProto(
        batch=TensorDict(
            {"responses": ids[None], "attention_mask": torch.ones(1, len(ids) + 2, dtype=torch.long)}, batch_size=1
        ),
        non_tensor_batch={
            "data_source": np.array(["x"], dtype=object),
            "reward_model": np.array([{"ground_truth": ""}], dtype=object),
            "extra_info": np.array([{}], dtype=object),
        },
    )
    manager = NaiveRewardManager(OmegaConf.create({}), tiny.tokenizer(), compute_score)
    return manager.loop.run_until_complete(manager.run_single(item))


def put(colocated: bool, *, teacher: bool = False) -> SimpleNamespace:
    """The batch in verl's store as its agent loop (colocated: its trainer) puts it there, and one row of padding."""
    rows, keys = [], []
    for row, length in enumerate(LENGTHS):
        found = managed(row)
        rewards = torch.zeros(length)
        rewards[-1] = found["reward_score"]
        fields = {
            "uid": UIDS[row], "response_mask": torch.tensor(masks()[row]), "rm_scores": rewards,
            "old_log_probs": -torch.arange(1.0, length + 1) / 10,
            "extra_fields": {} if colocated else {"reward_extra_info": found["reward_extra_info"]},
        }  # fmt: skip
        if colocated:
            fields[CARRIED] = found["reward_extra_info"][CARRIED]
        if teacher:
            fields["ref_log_prob"] = -torch.full((length,), 0.25)
        rows.append(fields)
        keys.append(f"{UIDS[row]}_{row}_0")
    template = {**rows[0], "uid": "pad0", "response_mask": torch.zeros(1, dtype=torch.int64)}
    template |= {name: torch.zeros(1) for name in rows[0] if name in ("rm_scores", "old_log_probs", "ref_log_prob")}
    rows.append(template)
    keys.append("pad0_0_0")
    partition = f"train-{time.time_ns()}"
    tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(rows), tags=[{} for _ in keys], partition_id=partition)
    return tq.KVBatchMeta(keys=keys, partition_id=partition, tags=[{} for _ in keys])


def computed(batch, options) -> torch.Tensor:
    """verl's own `_compute_advantage` of the trainer that this plug-in registers, of which nothing else exists."""
    trainer = get_trainer_cls("pass_sync").__new__(get_trainer_cls("pass_sync"))
    trainer.config = OmegaConf.create(
        {"algorithm": algorithm(options), "actor_rollout_ref": {"rollout": {"n": 2}}},
    )
    done = trainer._compute_advantage(batch, metrics={})
    found = tq.kv_batch_get(keys=done.keys, partition_id=done.partition_id, select_fields=["advantages"])
    return found["advantages"].to_padded_tensor(0.0)


@pytest.mark.parametrize("colocated", [False, True])
def test_step_scores_reach_the_advantages_of_verls_trainer(store, colocated):
    found = computed(put(colocated), PASS)
    check(found[:5], expected())
    assert not found[2].any()  # no process signal
    assert not found[4].any()  # no outcome
    assert not found[5].any()  # verl's padding
    assert len(set(found[0, [0, 1, 4]].tolist())) > 1


def test_the_reference_model_is_the_teacher_where_no_signal_is_carried(store, monkeypatch):
    monkeypatch.setitem(globals(), "SIGNALS", [None] * 5)
    monkeypatch.setitem(globals(), "OUTCOME", [1.0, 0.0, 0.0, 1.0, 0.0])
    shaping = ShapingConfig(signal="kl", weights=Weights(format=0.0))
    found = computed(put(False, teacher=True), {"signal": "kl", "weights": {"format": 0.0}})
    order = sorted(range(5), key=UIDS.__getitem__)
    scores = [[(-0.25 + t / 10) * m for t, m in enumerate(masks()[row], start=1)] for row in order]
    table = pa.table(
        {
            "group_id": [UIDS[row] for row in order],
            "loss_mask": [[bool(m) for m in masks()[row]] for row in order],
            "process_scores": pa.array(scores, pa.list_(pa.float32())),
            "outcome_reward": pa.array([OUTCOME[row] for row in order], pa.float32()),
        }
    )
    wanted = dict(zip(order, token_advantages(shape(table, shaping)).to_pylist(), strict=True))
    check(found[:5], [[a * m for a, m in zip(wanted[row], masks()[row], strict=True)] for row in range(5)])


@pytest.mark.parametrize(
    ("mode", "options"), [("seq-mean-token-mean", {}), ("token-mean", {"aggregation": "token_mean"})]
)
def test_losses_are_those_of_our_trainer(store, mode, options):
    mask = padded(masks()).bool()
    advantages = torch.nn.functional.pad(computed(put(False), PASS)[:5], (0, 1))
    torch.manual_seed(1)
    old = -torch.rand(mask.shape) * 3
    logprobs = old + torch.randn(mask.shape) * 0.3
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, clip_ratio_low=0.2,
        clip_ratio_high=0.28, clip_ratio_c=3.0, policy_loss=PolicyLossConfig(),
    )  # fmt: skip
    config.global_batch_info.update({"dp_size": 1, "batch_num_tokens": mask.sum(), "global_batch_size": 5})
    theirs, _ = get_policy_loss_fn("vanilla")(
        old_log_prob=old, log_prob=logprobs, advantages=advantages, response_mask=mask, loss_agg_mode=mode,
        config=config,
    )  # fmt: skip
    settings = TrainOptions(clip_low=0.2, clip_high=0.28, dual_clip=3.0, **options)
    ours = tiny.our_loss(logprobs, old=old, advantages=advantages, mask=mask, options=settings)
    assert theirs.item() == pytest.approx(ours.item(), abs=1e-5)
    assert abs(ours.item()) > 1e-3


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


def test_what_is_exported_is_a_dataproto_and_verl_computes_with_it(tmp_path):
    content = torch.load(exported(tmp_path, "verl"), weights_only=True)
    data = DataProto.from_dict(
        tensors=content["batch"], non_tensors=content["non_tensor_batch"], meta_info=content["meta_info"]
    )
    assert len(data) == len(ROWS)
    assert data.meta_info == {"temperature": 0.75}
    assert data.non_tensor_batch["uid"].tolist() == ["a", "a", "b"]
    assert [data[at].non_tensor_batch["reward_model"]["ground_truth"] for at in range(3)] == ["4", "4", None]
    for at, (_, prompt, tokens, mask, logprobs, _) in enumerate(ROWS):
        row, width = data[at].batch, data.batch["prompts"].shape[1]
        whole = row["input_ids"][row["attention_mask"].bool()]
        assert whole.tolist() == [*prompt, *tokens]
        assert row["position_ids"][row["attention_mask"].bool()].tolist() == list(range(len(whole)))
        assert row["responses"][: len(tokens)].tolist() == tokens
        assert row["response_mask"].tolist() == [int(m) for m in mask] + [0] * (4 - len(mask))
        assert row["rollout_log_probs"][: len(tokens)].tolist() == logprobs
        assert row["advantages"][: len(tokens)].tolist() == weights_of(at)
        assert row["attention_mask"][:width].sum() == len(prompt)
        assert row["token_level_scores"].sum() == REWARDS[at]
    # verl's own estimator and loss read the batch
    data.batch["token_level_rewards"] = data.batch["token_level_scores"]
    outcome = compute_advantage(data, adv_estimator="grpo", norm_adv_by_std_in_grpo=True)
    assert (outcome.batch["advantages"][0] > 0).tolist() == [True, True, False, True]
