"""What is read of a store elsewhere before it is asked for: which parts, in which order, and how many bytes."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards import Store, open_dataset
from tests.trainer.rows import as_rollout, random_rows, write_shaped
from trainer import old_logprobs
from trainer.ahead import ReadAhead
from trainer.data import ShapedData, build_index, select
from trainer.distributed import World
from trainer.old_logprobs import recompute_old
from trainer.options import TrainOptions
from trainer.order import all_steps
from trainer.stream import old_file, stream_steps

PARTS = 12
ROWS = random_rows(groups=PARTS, size=2)


class Counted:
    """Parts of given sizes on a store elsewhere; what was fetched is noted, and waits until it may go on."""

    is_local = False

    def __init__(self, *sizes: int) -> None:
        self.sizes, self.fetched, self.open = sizes, [], threading.Event()
        self.open.set()

    def stored_bytes(self, part):
        return self.sizes[part]

    def fetch(self, part):
        self.fetched.append(part)
        assert self.open.wait(60)
        return lambda columns: (part, *columns)


class Reads:
    """A hook for `Store` that counts reads of each part, and says when there were so many."""

    def __init__(self, expected: int) -> None:
        self.names, self.expected, self.all_read = Counter(), expected, threading.Event()

    def __call__(self, operation: str, name: str) -> None:
        if operation == "read":
            self.names[name] += 1
            if self.names.total() >= self.expected:
                self.all_read.set()


def on_another_store(before) -> tuple[ShapedData, str]:
    """Each group of ROWS in a part of its own."""
    url = write_shaped(f"memory://{uuid.uuid4().hex}/shaped", [ROWS[2 * g : 2 * g + 2] for g in range(PARTS)])
    return ShapedData((replace(open_dataset(url), store=Store(url, before)),)), url


def windows_of_one_part(url: str, *, epochs: int = 1):
    """The index of the dataset and its steps, one part each."""
    data, options = ShapedData((open_dataset(url),)), TrainOptions(batch_size=1, shuffle_tokens=1, epochs=epochs)
    index = build_index(data, threads=1)
    return index, all_steps(select(index, options, context=64).units, options)


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_come_in_the_order_given_and_twice_where_they_are_taken_twice(threads):
    order = [2, 0, 1, 2, 0]
    data = Counted(1, 1, 1)
    with ReadAhead(data, order, threads=threads) as stored:
        assert [stored.take().result()(["a"]) for _ in order] == [(part, "a") for part in order]
    assert Counter(data.fetched) == Counter(order)


def test_no_more_bytes_are_ahead_than_the_limit():
    data = Counted(4, 4, 4, 5, 4, 4)
    with ReadAhead(data, range(6), threads=1, limit=12) as stored:
        ahead = []
        for _ in range(6):
            stored._fetches[-1][1].result()  # one thread: all before it are there too
            ahead.append(data.fetched[len(ahead) :])
            stored.take()
    assert ahead == [[0, 1, 2], [1, 2], [2, 3], [3, 4], [4, 5], [5]]


def test_a_part_beyond_the_limit_is_fetched_alone():
    data = Counted(9, 1, 9)
    with ReadAhead(data, range(3), threads=3, limit=8) as stored:
        for part in range(3):
            assert stored.take().result()([]) == (part,)
            assert len(stored._fetches) == (part < 2)


def test_what_is_not_taken_is_not_fetched_any_more_at_the_end():
    data = Counted(*[1] * 50)
    data.open.clear()
    with ReadAhead(data, range(50), threads=2) as stored:
        stored.take()
        stored._fetches[-1][1].add_done_callback(lambda _: data.open.set())  # it is cancelled at the end
    assert len(data.fetched) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_parts_are_read_ahead_over_the_edges_of_windows_and_epochs():
    reads = Reads(expected=2 * PARTS)
    data, url = on_another_store(reads)
    index, steps = windows_of_one_part(url, epochs=2)
    assert len(steps) == 2 * PARTS
    stream = stream_steps(data, index, steps, reference=False, threads=2, ahead=1)
    first = next(stream)
    assert reads.all_read.wait(60), f"with one step taken, {reads.names.total()} of {2 * PARTS} reads were made"
    assert set(reads.names.values()) == {2}
    found = [first, *stream]
    assert reads.names.total() == 2 * PARTS
    for step, members in zip(steps, found, strict=True):
        expected = [as_rollout(ROWS[number]) for number in step.rows_R]
        assert list(members.rollout_ids) == [rollout.rollout_id for rollout in expected]
        for rollout, wanted in zip(members, expected, strict=True):
            assert rollout.token_ids_T.tolist() == wanted.token_ids_T.tolist()
            assert rollout.advantages_T.tolist() == wanted.advantages_T.tolist()


def test_parts_are_read_ahead_while_the_old_policy_is_recomputed(tmp_path, monkeypatch):
    reads = Reads(expected=PARTS)
    data, url = on_another_store(reads)
    index, _ = windows_of_one_part(url)

    def as_sampled(decoded, rows_R, **_):
        assert reads.all_read.wait(60), f"at part {decoded.rollout_ids}, {reads.names.total()} of {PARTS} were read"
        assert len(rows_R) == 2
        return decoded.behavior_C

    monkeypatch.setattr(old_logprobs, "_part_logprobs", as_sampled)
    policy = SimpleNamespace(world=World())
    wanted_R = np.ones(len(index), np.bool_)
    audit = recompute_old(data, index, wanted_R, policy=policy, folder=tmp_path, temperature=1.0, limit=None)
    assert (audit.mismatch, len(audit.worst)) == (1.0, 8)
    assert sorted(reads.names.values()) == [1] * PARTS
    for part in range(PARTS):
        rows = ROWS[2 * part : 2 * part + 2]
        old_C = np.load(old_file(tmp_path, part))
        assert old_C.tolist() == np.concatenate([as_rollout(row).behavior_T for row in rows]).tolist()


def test_a_local_part_is_read_by_the_thread_that_decodes_it(make_shaped):
    data = ShapedData((open_dataset(make_shaped([ROWS])),))
    with ReadAhead(data, [0, 0], threads=1) as stored:
        assert stored.take() is None
        assert not stored._fetches


def test_damage_is_told_where_its_step_is_due():
    data, url = on_another_store(None)
    index, steps = windows_of_one_part(url)
    part = int(index.part_R[steps[5].rows_R[0]])
    store = data.sources[0].store
    name = data.sources[0].parts[part].data
    store.fs.pipe_file(store.path(name), store.read(name)[:-1])
    stream = stream_steps(data, index, steps, reference=False, threads=4, ahead=2)
    assert sum(len(next(stream)) for _ in range(5)) == 10
    with pytest.raises(CorruptDatasetError, match="is damaged"):
        next(stream)
