"""Five rollouts of two groups as verl's agent loop leaves them, and a dictionary in the place of its store.

The store, TransferQueue, needs a Ray cluster; everything else here is verl's.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import tiny
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from passrl_integrations.verl import CARRIED, reward

PASS = {"k": 0.7, "weights": {"process": 1.0, "outcome": 1.0, "format": 0.5}}
SHAPING = ShapingConfig(k=0.7, weights=Weights(format=0.5))
OUTCOME_ONLY = {"estimator": "grpo_outcome", "weights": {"format": 0.0}}
UIDS = ["a", "b", "a", "b", "a"]
LENGTHS = [6, 4, 5, 3, 6]
SIGNALS = [([0.5, 1.0], [2, 6]), ([0.1, 0.2, 0.9], [1, 2, 4]), None, ([0.3], [3]), ([1.0, 0.0, 0.4], [3, 4, 6])]
OUTCOME = [1.0, 0.0, 0.0, 1.0, None]
FORMAT = [1.0, 0.0, 1.0, 1.0, 0.5]

#: the fields of a row that verl's actor reads
TRAINED = ["input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask", "old_log_probs",
           "advantages"]  # fmt: skip


def prompt(row: int) -> list[int]:
    """Of more than one length, for which verl's fields are ragged."""
    return [3, 4, 5][: 1 + row % 3]


def response(row: int) -> list[int]:
    """The tokens of a row, each its own."""
    return [(7 * row + 3 * place) % 40 + 2 for place in range(LENGTHS[row])]


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


def padded(rows: list[list[float]], width: int = 7) -> torch.Tensor:
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


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


def managed(row: int) -> dict:
    """What verl's reward manager makes of our reward function's answer."""

    def compute_score(data_source, solution_str, ground_truth, extra_info):
        return reward(OUTCOME[row], SIGNALS[row], format=FORMAT[row], acc=1.0)

    ids = torch.tensor(response(row))
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


def tokens(before: list[int], completion: list[int], mask: list[int]) -> dict[str, torch.Tensor]:
    """A row's tokens as verl's agent loop stores them."""
    fields = {
        "prompts": before, "responses": completion, "input_ids": [*before, *completion], "response_mask": mask,
        "position_ids": range(len(before) + len(completion)), "loss_mask": [*[0] * len(before), *mask],
    }  # fmt: skip
    return {name: torch.tensor(list(values)) for name, values in fields.items()}


def put(colocated: bool, *, teacher: bool = False) -> tq.KVBatchMeta:
    """The batch in verl's store as its agent loop (colocated: its trainer) puts it there, and one row of padding."""
    rows, keys = [], []
    for row, length in enumerate(LENGTHS):
        found = managed(row)
        rewards = torch.zeros(length)
        rewards[-1] = found["reward_score"]
        fields = {
            **tokens(prompt(row), response(row), masks()[row]),
            "uid": UIDS[row], "rm_scores": rewards,
            "old_log_probs": -torch.arange(1.0, length + 1) / 10,
            "extra_fields": {} if colocated else {"reward_extra_info": found["reward_extra_info"]},
        }  # fmt: skip
        if colocated:
            fields[CARRIED] = found["reward_extra_info"][CARRIED]
        if teacher:
            fields["ref_log_prob"] = -torch.full((length,), 0.25)
        rows.append(fields)
        keys.append(f"{UIDS[row]}_{row}_0")
    template = {**rows[0], **tokens([0], [0], [0]), "uid": "pad0"}
    template |= {name: torch.zeros(1) for name in rows[0] if name in ("rm_scores", "old_log_probs", "ref_log_prob")}
    rows.append(template)
    keys.append("pad0_0_0")
    partition = f"train-{time.time_ns()}"
    tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(rows), tags=[{} for _ in keys], partition_id=partition)
    return tq.KVBatchMeta(keys=keys, partition_id=partition, tags=[{} for _ in keys])
