"""Streams beside a trainer's rewards give what `shape` gives for the same rollouts."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest
import torch

from pass_ops import ShapingConfig, Standardizers, Weights, shape, token_advantages
from pass_ops.errors import LengthMismatchError, MissingColumnError, OptionError
from passrl_integrations import versions
from passrl_integrations.carried import Carried, advantages_of, streams
from passrl_integrations.steps import left_aligned, process_tensors, right_aligned, shaping_config

GROUPS = [7, 3, 7, 3, 7]
LENGTHS = [6, 4, 5, 3, 6]
MASKS = [[1, 1, 0, 0, 1, 1], [1] * 4, [1] * 5, [1] * 3, [0] * 6]
STEPS = [([0.5, 1.0], [2, 6]), ([0.1, 0.2, 0.9], [1, 2, 4]), None, ([0.3], [3]), ([0.2, 0.4], [3, 6])]
TOKENS = [[t / 10 * (-1) ** row for t in range(length)] for row, length in enumerate(LENGTHS)]
OUTCOME = [1.0, 0.0, 0.0, 1.0, 0.5]
FORMAT = [1.0, 0.0, 1.0, 1.0, 0.5]
OK = [True, True, True, False, True]
STEPWISE = ShapingConfig(weights=Weights(format=0.5))
TOKENWISE = ShapingConfig(signal="kl", eta=0.05, weights=Weights(format=0.0))


def expected(shaping: ShapingConfig, *, outcome=OUTCOME, steps=STEPS, format_ok=False) -> list[list[float]]:
    order = sorted(range(5), key=GROUPS.__getitem__)
    kinds = {"process_scores": pa.list_(pa.float32()), "process_ends": pa.list_(pa.int32())}
    columns = {
        "group_id": [str(GROUPS[r]) for r in order],
        "loss_mask": [[bool(m) for m in MASKS[r]] for r in order],
        "outcome_reward": pa.array([outcome[r] for r in order], pa.float32()),
    }
    if shaping.signal == "prm":
        columns["process_scores"] = pa.array([steps[r] and steps[r][0] for r in order], kinds["process_scores"])
        columns["process_ends"] = pa.array([steps[r] and steps[r][1] for r in order], kinds["process_ends"])
    else:
        columns["process_scores"] = pa.array([TOKENS[r] for r in order], kinds["process_scores"])
    if shaping.weights.format:
        columns["format_reward"] = pa.array([FORMAT[r] for r in order], pa.float32())
    if format_ok:
        columns["format_ok"] = [OK[r] for r in order]
    found = dict(zip(order, token_advantages(shape(pa.table(columns), shaping)).to_pylist(), strict=True))
    return [[a * m for a, m in zip(found[r], MASKS[r], strict=True)] for r in range(5)]


def padded(rows, width=8):
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def check(found, wanted):
    for row, values in zip(found.tolist(), wanted, strict=True):
        assert row == pytest.approx([*values, *[0.0] * (len(row) - len(values))], abs=1e-6)


def carried(signals, *, outcome=OUTCOME, ok=(None,) * 5):
    found = [
        streams(reward, signal, format=score, format_ok=right)
        for reward, signal, score, right in zip(outcome, signals, FORMAT, ok, strict=True)
    ]
    return Carried(streams=found, lengths=LENGTHS)


@pytest.mark.parametrize("gate", [False, True])
def test_steps_are_shaped_as_in_a_table(gate):
    found = advantages_of(
        torch.tensor(OUTCOME), carried(STEPS, ok=OK if gate else (None,) * 5), mask=padded(MASKS), group_index=GROUPS,
        shaping=STEPWISE,
    )  # fmt: skip
    check(found, expected(STEPWISE, format_ok=gate))
    assert not found[2].any()
    assert len(set(found[0].tolist())) > 2


def test_tokens_are_shaped_as_in_a_table():
    found = advantages_of(
        torch.tensor(OUTCOME), carried(TOKENS), mask=padded(MASKS), group_index=GROUPS, shaping=TOKENWISE
    )
    check(found, expected(TOKENWISE))


def test_an_outcome_that_is_none_takes_its_row_out():
    outcome = [None, *OUTCOME[1:]]
    found = advantages_of(
        torch.zeros(5) + torch.tensor([0.0, *OUTCOME[1:]]), carried(STEPS, outcome=outcome), mask=padded(MASKS),
        group_index=GROUPS, shaping=STEPWISE,
    )  # fmt: skip
    check(found, expected(STEPWISE, outcome=outcome))


def test_rows_that_carry_nothing_are_not_trained_on():
    some = carried(STEPS)
    some = Carried(streams=[None, *some.streams[1:]], lengths=LENGTHS)
    shaping = ShapingConfig(weights=Weights(format=0.0))
    found = advantages_of(torch.tensor(OUTCOME), some, mask=padded(MASKS), group_index=GROUPS, shaping=shaping)
    check(found, expected(shaping, steps=[None, *STEPS[1:]]))


@pytest.mark.parametrize("signals", [STEPS, TOKENS], ids=["steps", "tokens"])
def test_a_method_that_is_streams_reads_the_same_signals(signals):
    shaping = ShapingConfig(estimator="papo")  # outcome and process; no format
    found = advantages_of(
        torch.tensor(OUTCOME), carried(signals), mask=padded(MASKS), group_index=GROUPS, shaping=shaping
    )
    order = sorted(range(5), key=GROUPS.__getitem__)
    columns = {
        "group_id": [str(GROUPS[r]) for r in order],
        "loss_mask": [[bool(m) for m in MASKS[r]] for r in order],
        "outcome_reward": pa.array([OUTCOME[r] for r in order], pa.float32()),
    }
    if signals is STEPS:
        scores = [STEPS[r] and STEPS[r][0] for r in order]
        columns["process_ends"] = pa.array([STEPS[r] and STEPS[r][1] for r in order], pa.list_(pa.int32()))
    else:
        scores = [TOKENS[r] for r in order]
    columns["process_scores"] = pa.array(scores, pa.list_(pa.float32()))
    wanted = dict(zip(order, token_advantages(shape(pa.table(columns), shaping)).to_pylist(), strict=True))
    check(found, [[a * m for a, m in zip(wanted[r], MASKS[r], strict=True)] for r in range(5)])
    assert found.any()


@pytest.mark.parametrize(
    ("signals", "shaping", "message"),
    [
        (STEPS[:4], STEPWISE, "^the process signal has 4 entries for 5 completions"),
        ([*STEPS[:3], ([0.1], [1, 3]), STEPS[4]], STEPWISE, "^rollout 3: the process signal has 1 scores and 2 ends"),
        ([[0.1], *TOKENS[1:]], TOKENWISE, "^rollout 0: the process signal has 1 values for 6 completion tokens"),
    ],
)
def test_signals_of_the_wrong_length_are_named(signals, shaping, message):
    with pytest.raises(LengthMismatchError, match=message):
        process_tensors(signals, mask=padded(MASKS), lengths=LENGTHS, config=shaping)


def test_a_trainers_own_configuration_file_makes_the_same_options():
    plain = {"k": 0.5, "signal": "kl", "weights": {"format": 0.0}, "standardize": {"process": "abs_max"}}
    assert shaping_config(plain) == ShapingConfig(
        k=0.5, signal="kl", weights=Weights(format=0.0), standardize=Standardizers(process="abs_max")
    )
    with pytest.raises(OptionError, match="unknown option 'kk'"):
        shaping_config({"kk": 1.0})


def test_rows_move_from_edge_to_edge():
    lengths = torch.tensor([0, 2, 5, 3])
    left = torch.arange(1, 21).reshape(4, 5) * (torch.arange(5) < lengths[:, None])
    right = right_aligned(left, lengths)
    assert right.tolist() == [[0] * 5, [0, 0, 0, 6, 7], [11, 12, 13, 14, 15], [0, 0, 16, 17, 18]]
    assert torch.equal(left_aligned(right, lengths), left)


# --- slime: its samples in, its training data out -----------------------------------------------------------------


@pytest.fixture
def slime(monkeypatch):
    """The plug-in beside a slime of one context-parallel rank, which cuts nothing."""
    cut = ModuleType("slime.backends.megatron_utils.cp_utils")
    cut.slice_log_prob_with_cp = lambda values, total, response: values
    monkeypatch.setitem(sys.modules, cut.__name__, cut)
    for name in ("slime", "slime.backends", "slime.backends.megatron_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(versions, "version", lambda name: "0.3.1")
    monkeypatch.delitem(sys.modules, "passrl_integrations.slime", raising=False)
    yield importlib.import_module("passrl_integrations.slime")
    sys.modules.pop("passrl_integrations.slime", None)


def samples(*, teacher=False):
    """With the fields of slime's Sample (slime/utils/types.py, 0.3.1) that are read."""
    found = []
    for row, length in enumerate(LENGTHS):
        metadata = {} if teacher else {"pass_streams": streams(OUTCOME[row], STEPS[row], format=FORMAT[row])}
        sample = SimpleNamespace(
            group_index=GROUPS[row], response_length=length, metadata=metadata, remove_sample=row == 4,
            loss_mask=None if all(MASKS[row]) else MASKS[row] if row < 4 else [1] * length, reward=OUTCOME[row],
            teacher_log_probs=[t - 1.0 for t in TOKENS[row]] if teacher else None,
            rollout_log_probs=[-1.0] * length if teacher else None,
        )  # fmt: skip
        sample.get_reward_value = lambda args, sample=sample: sample.reward
        found.append(sample)
    return found


def trained(slime, made, which):
    """What the rank that trains these samples is left with."""
    data = {
        "rewards": [made[row] for row in which], "response_lengths": [LENGTHS[row] for row in which],
        "total_lengths": [LENGTHS[row] + 4 for row in which],
        "loss_masks": [torch.tensor(MASKS[row], dtype=torch.int) for row in which],
    }  # fmt: skip
    slime.advantages(Namespace(), data)
    return data


def test_slime_shapes_whole_groups_and_trains_parts_of_them(slime):
    args = Namespace(pass_shaping={"weights": {"format": 0.5}})
    raw, made = slime.reward_post_process(args, samples())
    assert raw == OUTCOME
    wanted = expected(STEPWISE)
    for which in ([0, 3], [4, 1, 2]):  # group 7 on two ranks
        data = trained(slime, made, which)
        for row, found in zip(which, data["advantages"], strict=True):
            assert found.tolist() == pytest.approx(wanted[row], abs=1e-6)
        assert data["returns"] is data["advantages"]
        assert data["rewards"] == pytest.approx([sum(wanted[row]) / LENGTHS[row] for row in which], abs=1e-6)


def test_slime_shapes_the_distance_to_the_teacher_where_no_signal_is_carried(slime):
    args = Namespace(pass_shaping={"signal": "kl", "eta": 0.05, "weights": {"format": 0.0}})
    _, made = slime.reward_post_process(args, samples(teacher=True))
    for found, wanted in zip(made, expected(TOKENWISE), strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)


def test_slime_samples_without_a_group_are_named(slime):
    some = samples()
    some[2].group_index = None
    with pytest.raises(MissingColumnError, match=r"^sample 2: group_index is None"):
        slime.reward_post_process(Namespace(), some)
