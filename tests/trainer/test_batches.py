"""Batches, tensor for tensor, against a slow plain reference and in every layout."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch

from pass_ops.shards import Store, open_dataset
from tests.trainer.plain_batches import DTYPES, plain_plan, plain_step
from tests.trainer.rows import VOCABULARY, as_rollout, random_rows, split_groups, write_shaped
from trainer.batching import build_step, plan_micro_batches
from trainer.data import REMOTE_READERS, ShapedData, build_index, reader_threads
from trainer.distributed import World
from trainer.errors import TrainDataError
from trainer.order import Step
from trainer.rollouts import Rollout, Rollouts
from trainer.stream import stream_steps

OPTIONS = {"aggregation": "rollout_mean", "constant": None, "vocabulary_size": VOCABULARY}
LAYOUTS = [(False, False), (True, False), (False, True)]  # pack, share_prompts


def random_rollouts(seed: int, *, old: bool = False, reference: bool = True) -> list[Rollout]:
    """Groups of unlike sizes, some values missing, in an order in which groups are torn apart."""
    rng = np.random.default_rng(seed)
    rows = random_rows(groups=int(rng.integers(1, 8)), size=int(rng.integers(1, 6)), seed=seed, longest=30)
    rollouts = [as_rollout(row, reference=reference) for row in rng.permutation(np.array(rows, object))]
    for rollout in rollouts:
        rollout.behavior_T[rng.random(len(rollout.behavior_T)) < 0.05] = np.nan
        if rollout.reference_T is not None:
            rollout.reference_T[rng.random(len(rollout.reference_T)) < 0.05] = -np.inf
    if old:
        rollouts = [replace(one, old_T=rng.normal(-3, 1, len(one.token_ids_T)).astype(np.float32)) for one in rollouts]
    return rollouts


@pytest.mark.parametrize(("pack", "share"), LAYOUTS)
@pytest.mark.parametrize("seed", range(12))
def test_batches_are_those_of_the_plain_reference_to_the_bit(seed, pack, share):
    rng = np.random.default_rng(1000 + seed)
    rollouts = random_rollouts(seed, old=seed % 2 == 1, reference=seed % 3 > 0)
    masked = (rng.random(len(rollouts)) < 0.2) & (np.arange(len(rollouts)) > 0)
    budget, size = int(rng.integers(10, 150)), int(rng.integers(1, 4))
    for rank in range(size):
        step = build_step(
            rollouts, masked=masked.tolist(), budget=budget, pack=pack, share_prompts=share,
            world=World(rank=rank, size=size), **OPTIONS,
        )  # fmt: skip
        plain = plain_step(
            rollouts, masked=masked.tolist(), budget=budget, pack=pack, share=share, rank=rank, size=size
        )
        assert len(step.micro_batches) == len(plain)
        for micro, expected in zip(step.micro_batches, plain, strict=True):
            assert micro.rollout_ids == expected["rollout_ids"]
            assert micro.real_tokens == sum(len(one) for one in rollouts if one.rollout_id in micro.rollout_ids) - (
                0 if micro.prefix_1P is None else (len(micro.rollout_ids) - 1) * micro.prefix_1P.numel()
            )
            for name, dtype in DTYPES.items():
                found = getattr(micro, name)
                if expected[name] is None:
                    assert found is None, name
                    continue
                assert found.dtype == torch.from_numpy(np.zeros(0, dtype)).dtype, name
                assert found.is_contiguous()
                assert found.numpy().tobytes() == expected[name].tobytes(), name
                assert expected[name].size == 0 or tuple(found.shape) == expected[name].shape, name


@pytest.mark.parametrize("seed", range(20))
def test_packing_is_first_fit_of_the_longest_first(seed):
    """With rollouts longer than the budget, equal ones, and none at all."""
    rng = np.random.default_rng(seed)
    rows = random_rows(groups=int(rng.integers(1, 40)), size=3, seed=seed, longest=int(rng.integers(4, 60)))
    rollouts, budget = [as_rollout(row) for row in rows], int(rng.integers(3, 90))
    lengths = np.array([len(rollout) for rollout in rollouts])
    found = plan_micro_batches(lengths, budget=budget, pack=True)
    assert [chosen.tolist() for chosen in found] == plain_plan(rollouts, list(range(len(rows))), budget, pack=True)
    assert plan_micro_batches(lengths[:0], budget=budget, pack=True) == []


@pytest.mark.parametrize("seed", range(6))
def test_streamed_steps_hold_each_row_as_its_part_does(make_shaped, seed):
    """Rows of several parts in any order, neighbours in a part among them, as batches and one by one."""
    rng = np.random.default_rng(seed)
    rows = random_rows(groups=8, size=3, seed=seed)
    data = ShapedData((open_dataset(make_shaped(split_groups(rows, 3))),))
    index = build_index(data, threads=1)
    order = rng.permutation(len(rows)) if seed % 2 else np.roll(np.arange(len(rows)), seed)
    steps = [Step(number=n, epoch=0, rows_R=rows_R) for n, rows_R in enumerate(np.array_split(order, 4))]
    for step, found in zip(steps, stream_steps(data, index, steps, reference=True, threads=1, ahead=1), strict=True):
        expected = Rollouts.of([as_rollout(rows[r]) for r in step.rows_R])
        assert found.rollout_ids == expected.rollout_ids
        for name, value in vars(expected).items():
            if isinstance(value, np.ndarray):
                assert getattr(found, name).tobytes() == value.tobytes(), name


def test_rollouts_are_a_sequence_of_their_rows():
    rollouts = Rollouts.of([as_rollout(row) for row in random_rows(groups=2, size=2)])
    assert [one.rollout_id for one in rollouts] == ["g000/0", "g000/1", "g001/0", "g001/1"]
    assert rollouts[-1].rollout_id == "g001/1"
    assert [one.rollout_id for one in rollouts[1:3]] == ["g000/1", "g001/0"]
    with pytest.raises(IndexError):
        rollouts[4]


def test_a_masked_rollout_may_hold_ids_that_the_policy_does_not_know():
    rows = random_rows(groups=1, size=3)
    strange = replace(rows[1], tokens=(VOCABULARY, *rows[1].tokens[1:]))
    rollouts = [as_rollout(row) for row in (rows[0], strange, rows[2])]
    made = build_step(rollouts, masked=[False, True, False], budget=100, pack=True, **OPTIONS)
    assert set(made.micro_batches[0].rollout_ids) == {rows[0].rollout_id, rows[2].rollout_id}
    with pytest.raises(TrainDataError, match=f"Rollout {strange.rollout_id}: token_ids go from .* to {VOCABULARY}"):
        build_step(rollouts, masked=[False] * 3, budget=100, pack=True, **OPTIONS)


class Together:
    """A hook for `Store` under which reads go on only once `number` of them are under way."""

    def __init__(self, number: int) -> None:
        self.barrier = threading.Barrier(number, timeout=60)

    def __call__(self, operation: str, name: str) -> None:
        if operation == "read":
            self.barrier.wait()


def test_many_parts_of_a_remote_store_are_read_at_once():
    """Each of them mostly waits: with decode_threads reads at a time, a store's latency would set the speed."""
    rows = random_rows(groups=REMOTE_READERS, size=1)
    url = write_shaped(f"memory://{uuid.uuid4().hex}/shaped", split_groups(rows, REMOTE_READERS))
    opened = open_dataset(url)
    data = ShapedData((replace(opened, store=Store(url, Together(REMOTE_READERS))),))
    threads = reader_threads(data, 2)
    index = build_index(data, threads=threads)
    steps = [Step(number=0, epoch=0, rows_R=np.arange(len(rows)))]
    (members,) = stream_steps(data, index, steps, reference=False, threads=threads, ahead=1)
    assert members.rollout_ids == tuple(row.rollout_id for row in rows)


def test_a_local_store_is_read_by_the_threads_that_were_asked_for(make_shaped):
    data = ShapedData((open_dataset(make_shaped([random_rows(groups=1, size=1)])),))
    assert reader_threads(data, 2) == 2
    assert reader_threads(data, 2 * REMOTE_READERS) == 2 * REMOTE_READERS
