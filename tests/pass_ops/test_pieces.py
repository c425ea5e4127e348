"""Tables are shaped in pieces, on threads and in blocks: neither values nor errors show where the cuts are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pyarrow as pa
import pytest
from malformed import F32, I32, NAN, STEPS, put

from pass_ops import ShapingConfig, blocks, errors, shape, shaping


@contextmanager
def small_pieces() -> Iterator[None]:
    """A thread's share and a block are a group each."""
    with mock.patch.object(shaping, "LEAST_SPAN_VALUES", 1), mock.patch.object(blocks, "BLOCK_VALUES", 1):
        yield


def in_two_chunks(table: pa.Table) -> pa.Table:
    """Then `shape` reads the columns piece by piece, not all at once."""
    return pa.concat_tables([table.slice(0, 2), table.slice(2)])


@pytest.fixture(params=["contiguous", "chunked"])
def laid(request: pytest.FixtureRequest):
    """How a table lies in memory."""
    return in_two_chunks if request.param == "chunked" else lambda table: table


@pytest.mark.parametrize("estimator", ["pass", "pass_ops.methods.prime:prime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_are_those_of_one_piece(laid, estimator, threads):
    table = pa.concat_tables([STEPS, put("group_id", ["q3", "q4", "q4"])])  # groups of 2, 1, 1 and 2
    config = ShapingConfig(estimator=estimator, standardize="none")
    whole = shape(table, config, threads=1)
    with small_pieces():
        assert shape(laid(table), config, threads=threads).equals(whole)


BAD = {
    "scores of a rollout that lacks its outcome": (
        put("outcome_reward", [1.0, 0.0, None], pa.float32(), put("process_scores", [[0.5, 1.0], [2.0], [NAN]], F32)),
        errors.NonFiniteError,
    ),
    "scores": (put("process_scores", [[0.5, 1.0], [2.0], [NAN]], F32), errors.NonFiniteError),
    "ends": (put("process_ends", [[1, 3], [2], [2]], I32), errors.StepEndsError),
    "outcome": (put("outcome_reward", [1.0, 0.0, NAN], pa.float32()), errors.NonFiniteError),
    "tokens": (STEPS.append_column("token_ids", pa.array([[1, 2, 3], [1, 2], []], I32)), errors.LengthMismatchError),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_rollout_of_a_later_piece_is_named(laid, case, threads):
    table, error = BAD[case]
    with small_pieces(), pytest.raises(error, match=r"^rollout 'q2/0': "):
        shape(laid(table), ShapingConfig(), threads=threads)


def test_rollouts_of_other_pieces_are_held_to_their_own_tokens(laid):
    table = STEPS.append_column("token_ids", pa.array([[1, 2, 3], [1, 2], [1]], I32))
    with small_pieces():
        assert len(shape(laid(table), ShapingConfig(), threads=2)) == 3
