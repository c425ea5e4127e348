"""Calls as columns of texts, and answers that are there although their child died before it could send them."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.signals.calls import texts
from pipelines.verifiers.batches import BOARD_BYTES, Board, Columns, board_handle
from pipelines.verifiers.number import _REWRITTEN, rewritten
from pipelines.verifiers.pool import CallPool

WORDS = ["", "a", "é", "𝄞" * 3, "\x00", "long " * 50]

MODULE = """
import os, time

def act(what, length):
    if what == "leave": os._exit(0)
    if what == "hang": time.sleep(3600)
    if what == "raise": raise LookupError(length)
    return what * int(length)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "batch_acts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    found = CallPool("batch_acts:act", adapter="copy:copy", workers=1)
    yield found
    found.close()


@pytest.mark.parametrize("seed", range(4))
def test_texts_are_those_of_the_column_however_it_is_cut_and_sent(seed: int) -> None:
    rng = random.Random(seed)
    column = [rng.choice(WORDS) for _ in range(40)]
    for start, stop in ((0, 40), (0, 0), (7, 7), (3, 29), (39, 40)):
        chunked = pa.chunked_array([pa.array(column[:10]), pa.array(column[10:])]).slice(start, stop - start)
        whole = texts(chunked)
        assert list(whole) == column[start:stop]
        for part in (whole[2:9], whole[5:], whole[:0], whole[3:1]):
            assert list(pickle.loads(pickle.dumps(part))) == list(part)
        calls = Columns(whole, whole)[1:4]
        assert list(pickle.loads(pickle.dumps(calls))) == [(word, word) for word in column[start:stop][1:4]]


def test_a_slice_is_sent_without_the_texts_around_it() -> None:
    assert len(pickle.dumps(texts(pa.chunked_array([["x" * 10_000] * 100]))[5:6])) < 11_000


def call(*calls: tuple[str, int]) -> Columns:
    return Columns(texts(pa.chunked_array([[what for what, _ in calls]])), [length for _, length in calls])


def test_answers_before_one_that_ends_its_child_are_kept_also_where_they_fill_the_board(pool: CallPool) -> None:
    half = BOARD_BYTES // 2
    calls = [("a", 1), ("b", half), ("c", half), ("d", 2 * BOARD_BYTES), ("raise", 7), ("e", 3), ("leave", 1), ("f", 2)]
    calls += [("g", half), ("h", half), ("i", 3), ("hang", 1), ("j", 1), ("leave", 1), ("leave", 1)]
    found = pool.map(call(*calls), options={}, timeout_s=1.0)
    bad = {"raise": "error", "leave": "error", "hang": "timeout"}
    assert [result.status for result in found] == [bad.get(what, "ok") for what, _ in calls]
    assert [result.value for result in found] == [None if what in bad else what * length for what, length in calls]


WRITER = """
import sys
from itertools import count
from pipelines.verifiers.batches import Board

board = Board(int(sys.argv[1]))
board.clear()
for number in count():
    if not board.put(number):
        board.clear(sent=number + 1)
"""


def test_the_parent_reads_no_count_that_is_half_written() -> None:
    handle = board_handle()
    board = Board(handle)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(handle)], pass_fds=(handle,)) as child:
        while board.answered < 1000:
            assert child.poll() is None
        counts = [board.answered for _ in range(300_000)]
        child.kill()
    assert counts == sorted(counts)
    assert board.answered >= counts[-1]
    board.close()
    os.close(handle)


@pytest.mark.parametrize("seed", range(3))
def test_a_text_that_no_pattern_can_rewrite_is_left_alone_and_every_other_is_rewritten(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [
        "3",
        "10",
        "10^5",
        " x 10 ^ {3}",
        "\\frac12",
        "\\frac{1}{2}",
        "$",
        "½",
        "⁻²",
        "1{,}000",
        "~",
        ".",
        "a",
        "**",
    ]
    for _ in range(2000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        expected = text
        for pattern, replacement in _REWRITTEN:
            expected = pattern.sub(replacement, expected)
        assert rewritten(text) == expected
