"""What the rows of a part of rollouts must be."""

from __future__ import annotations

import pytest
from verifying import problems, put

ID_FORM = "rollout_id is not {group_id}/{sample_index}"
FALLS = "sample_index does not increase within the group"
UNEQUAL = "{} and token_ids have different lengths"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda t: t, None),
        (lambda t: t.take([1, 3]), None),
        (lambda t: t.take([0, 2, 1, 3]), ("adjacency", [2, 3], "the rows of one group are not adjacent")),
        (lambda t: t.take([1, 0, 2, 3]), ("sample_order", [1], FALLS)),
        (lambda t: t.take([0, 0, 3, 2]), ("sample_order", [1, 3], FALLS)),
        (lambda t: put(t, "rollout_id", ["b/0", "b/1", "x/0", "c/1"]), ("id_form", [2], ID_FORM)),
        (lambda t: put(t, "rollout_id", ["b/00", "b/1/", "c", "c/x"]), ("id_form", [0, 1, 2, 3], ID_FORM)),
        (lambda t: put(t, "sample_index", [0, 1, 0, 2]), ("id_form", [3], ID_FORM)),
        (
            lambda t: put(t, "behavior_logprobs", [[-1.0, 0.0]] * 4),
            ("lengths", [0, 2], UNEQUAL.format("behavior_logprobs")),
        ),
        (lambda t: put(t, "loss_mask", [[True]] * 4), ("lengths", [0, 1, 2, 3], UNEQUAL.format("loss_mask"))),
        (
            lambda t: put(t, "behavior_logprobs", [[-1.0, -1.0, -1.0], [-1.0, 0.0]] * 2),
            ("masked_values", [0, 2], "behavior_logprobs is not 0.0 at a masked token"),
        ),
        (
            lambda t: put(t, "behavior_logprobs", [[float("nan"), 0.0, -1.0], [-1.0, 0.0]] * 2),
            ("finite", [0, 2], "behavior_logprobs holds NaN or infinity"),
        ),
        (
            lambda t: put(t, "finish_reason", ["stop", "abort", "length", "stop"]),
            ("value", [1], "finish_reason is none of stop, length"),
        ),
    ],
)
def test_rollouts_that_break_a_rule(rollouts, spoil, expected):
    assert problems(spoil(rollouts("b", "c")), "generate") == ([expected] if expected else [])
