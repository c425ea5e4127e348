"""Padded torch batches give what `shape` gives for their rows, and what the oracle gives."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from cases import to_config, to_table
from hypothesis import given
from hypothesis import strategies as st
from oracle import Options, shape_group
from strategies import ESTIMATORS, MODERATE, SIGNALS, examples, groups, options

from pass_ops import ShapingConfig, Weights, errors, padded, shape, token_advantages
from pass_ops.options.published import PUBLISHED
from pass_ops.torch import shape_batch, token_advantages_from_batch

NAN = math.nan


def readable(groups: list[list[dict]]) -> list[list[dict]]:
    """The groups, but for what a padded batch cannot say: a missing score of a row in which no token counts."""
    for r in (r for group in groups for r in group):
        if r["scores"] is None or r.get("ends", ()) is None:
            r["scores"] = None
            if "ends" in r:
                r["ends"] = None
            if not any(r["mask"]):
                r["scores"] = [0.0] * len(r["mask"])
                if "ends" in r:
                    r["ends"] = list(range(1, len(r["mask"]) + 1))
    return groups


def to_batch(rows: list[dict], *, width: int) -> dict[str, torch.Tensor | None]:
    """The rows as a trainer holds them: padded with what nobody may read."""

    def filled(values, fill, size):
        return [*values, *[fill] * (size - len(values))]

    mask = torch.tensor([filled(r["mask"], False, width) for r in rows]).reshape(len(rows), width)
    batch: dict[str, torch.Tensor | None] = {"mask": mask, "ends": None}
    if any("ends" in r for r in rows):
        steps = [(r["ends"] or [len(r["mask"])], r["scores"] or [NAN]) for r in rows]
        steps = [(ends, scores) if ends[-1:] != [0] else ([], []) for ends, scores in steps]
        most = max(len(ends) for ends, _ in steps)
        batch["ends"] = torch.tensor([filled(ends, 0, most) for ends, _ in steps], dtype=torch.long).reshape(
            len(rows), most
        )
        scores = [filled(scores, NAN, most) for _, scores in steps]
        batch["scores"] = torch.tensor(scores).reshape(len(rows), most)
    else:
        scores = [filled(r["scores"] or [NAN] * len(r["mask"]), NAN, width) for r in rows]
        batch["scores"] = torch.tensor(scores).reshape(len(rows), width)
    for key, name in (("outcome", "outcome"), ("format", "format"), ("ok", "format_ok")):
        if key in rows[0]:
            batch[name] = torch.tensor([NAN if r[key] is None else float(r[key]) for r in rows])
    return batch


def spread(ends: list[int], values: list[float]) -> list[float]:
    return [value for (a, b), value in zip(pairwise([0, *ends]), values, strict=True) for _ in range(a, b)]


@st.composite
def shuffled(draw, signal, chosen_columns, **plan):
    """Groups, and in which order a batch holds their rollouts."""
    some = readable(draw(groups(signal, columns=chosen_columns, least=1, **plan)))
    places = [(g, i) for g, group in enumerate(some) for i in range(len(group))]
    if draw(st.booleans()):
        random.Random(draw(st.integers(0, 2**32 - 1))).shuffle(places)
    return some, places


def batch_of(some, places):
    rows = [some[g][i] for g, i in places]
    width = max(len(r["mask"]) for r in rows) + 2
    return rows, to_batch(rows, width=width), [f"prompt {g}" for g, _ in places]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@examples(40)
@given(data=st.data())
def test_a_batch_has_the_bits_of_its_rows_in_any_order(estimator, signal, data):
    chosen, names = data.draw(options(estimator, signal))
    some, places = data.draw(shuffled(signal, names))
    rows, batch, index = batch_of(some, places)
    found = shape_batch(**batch, group_index=index, config=to_config(chosen))
    order = sorted(range(len(places)), key=lambda at: index.index(index[at]))
    together: dict[str, list[dict]] = {}
    for at in order:
        together.setdefault(index[at], []).append(rows[at])
    shaped = shape(to_table(list(together.values())), to_config(chosen))
    for at, advantages, trainable in zip(
        order, token_advantages(shaped).to_pylist(), shaped["trainable"].to_pylist(), strict=True
    ):
        counted = [value if counts else 0.0 for value, counts in zip(advantages, rows[at]["mask"], strict=True)]
        assert found.advantages[at].tolist() == counted + [0.0] * (found.advantages.shape[1] - len(counted))
        assert found.trainable[at].item() is trainable


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@examples(15)
@given(data=st.data())
def test_a_batch_agrees_with_the_oracle(estimator, signal, data):
    chosen, names = data.draw(options(estimator, signal))
    some, places = data.draw(shuffled(signal, names, magnitudes=MODERATE))
    rows, batch, index = batch_of(some, places)
    found = token_advantages_from_batch(**batch, group_index=index, config=to_config(chosen))
    expected, fragile = {}, set()
    for g, group in enumerate(some):
        chosen.fragile.clear()
        for i, shaped in enumerate(shape_group(group, chosen)):
            expected[g, i] = shaped
        if chosen.fragile:
            fragile.add(g)
    for at, (g, i) in enumerate(places):
        if g in fragile:
            continue
        want, row = spread(expected[g, i].ends, expected[g, i].advantages), found[at].tolist()
        for counts, x, y in zip(rows[at]["mask"], want, row, strict=False):
            assert abs((x if counts else 0.0) - y) <= 1e-6 * max(1.0, abs(x)) + 1e-12 * expected[g, i].size


# --- one small batch, two groups that lie across one another ------------------------------------------------------

ENDS = torch.tensor([[1, 3, 0], [2, 0, 0], [1, 2, 4], [2, 3, 0]])
SCORES = torch.tensor([[0.5, 1.0, 9.0], [2.0, 9.0, 9.0], [-1.0, 0.25, 0.5], [0.0, 1.5, 9.0]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 0]])
INDEX = torch.tensor([5, 3, 5, 3])
OUTCOME = torch.tensor([1.0, 0.0, 0.0, 1.0])
GIVEN = {"scores": SCORES, "ends": ENDS, "mask": MASK, "group_index": INDEX, "outcome": OUTCOME}
NO_FORMAT = Weights(format=0.0)
PRM, KL = ShapingConfig(weights=NO_FORMAT), ShapingConfig(signal="kl", weights=NO_FORMAT)
TOKENS = GIVEN | {"ends": None, "scores": torch.tensor([[0.5, 1.0, 0.1, NAN]] * 4) * torch.arange(1, 5)[:, None]}
TOKENS["scores"][2, 3] = 0.7  # the only token that counts there
EXPECTED = token_advantages_from_batch(**GIVEN, config=PRM)


def same(changed, config=PRM, expected=EXPECTED):
    assert torch.equal(token_advantages_from_batch(**changed, config=config), expected)


def test_true_at_the_last_token_of_each_step_says_where_steps_end():
    last = torch.zeros(4, 4, dtype=torch.bool)
    scores = torch.full((4, 4), 9.0)
    for row in range(4):
        for end, score in zip(ENDS[row].tolist(), SCORES[row].tolist(), strict=True):
            if end:
                last[row, end - 1], scores[row, end - 1] = True, score
    same(GIVEN | {"ends": last, "scores": scores})


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16])
def test_the_mask_may_have_any_type(dtype):
    same(GIVEN | {"mask": MASK.to(dtype)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_and_rewards_may_have_any_width(dtype):
    same(GIVEN | {"scores": SCORES.to(dtype), "outcome": OUTCOME.to(dtype), "ends": ENDS.int()})


@pytest.mark.parametrize(
    "index", [[5, 3, 5, 3], ["b", "a", "b", "a"], np.array(["b", "a", "b", "a"], dtype=object), np.array([5, 3, 5, 3])]
)
def test_groups_may_be_named_by_anything(index):
    same(GIVEN | {"group_index": index})


def test_tensors_may_be_strided_and_part_of_a_graph():
    scores = SCORES.t().contiguous().t().requires_grad_()
    assert not scores.is_contiguous()
    found = token_advantages_from_batch(
        **(GIVEN | {"scores": scores * 1, "mask": MASK.t().contiguous().t()}), config=PRM
    )
    assert torch.equal(found, EXPECTED)
    assert not found.requires_grad


def test_the_result_may_be_written_to_and_leaves_the_batch_alone():
    before = [tensor.clone() for tensor in (SCORES, ENDS, MASK, OUTCOME)]
    token_advantages_from_batch(**GIVEN, config=PRM).add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, (SCORES, ENDS, MASK, OUTCOME), strict=True))
    same(GIVEN)


def test_a_bool_format_is_the_gate_and_the_reward():
    ok = torch.tensor([True, False, True, True])
    config = ShapingConfig()
    gated = token_advantages_from_batch(**GIVEN, format=ok, config=config)
    assert torch.equal(gated, token_advantages_from_batch(**GIVEN, format_ok=ok.float(), config=config))
    assert torch.equal(gated, token_advantages_from_batch(**GIVEN, format_ok=ok, format=ok.float(), config=config))
    assert not torch.equal(gated, token_advantages_from_batch(**GIVEN, format=ok.float(), config=config))


def test_scores_of_tokens_are_read_where_they_lie(monkeypatch):
    seen = {}

    def spy(table, config):
        seen.update({name: table[name].chunk(0) for name in table.column_names})
        return shape(table, config)

    monkeypatch.setattr(padded, "shape", spy)
    given = TOKENS | {"group_index": [0, 0, 1, 1], "mask": MASK.bool()}
    token_advantages_from_batch(**given, config=KL)
    assert seen["process_scores"].values.buffers()[1].address == TOKENS["scores"].data_ptr()
    assert seen["outcome_reward"].buffers()[1].address == OUTCOME.data_ptr()


@pytest.mark.parametrize(
    ("place", "value"), [("outcome", (0,)), ("scores", (2, 2)), ("format", (1,)), ("format_ok", (3,))]
)
def test_nan_takes_its_row_out_of_every_pool(place, value):
    given = GIVEN | {"format": torch.tensor([1.0, 0.0, 0.5, 0.25]), "format_ok": torch.tensor([1.0, 1.0, 0.0, 1.0])}
    spoiled = given[place].clone()
    spoiled[value] = NAN
    found = shape_batch(**(given | {place: spoiled}), config=ShapingConfig())
    row = value[0]
    rest = [at for at in range(4) if at != row]
    without = shape_batch(**{name: tensor[rest] for name, tensor in given.items()}, config=ShapingConfig())
    assert found.trainable.tolist() == [at != row for at in range(4)]
    assert torch.equal(found.advantages[rest], without.advantages)
    assert not found.advantages[row].any()


def test_what_no_token_counts_for_is_never_read():
    scores = SCORES.clone()
    scores[2, 1] = NAN  # token 1 of row 2 is masked, and a step of its own
    found = token_advantages_from_batch(**(GIVEN | {"scores": scores}), config=PRM)
    assert torch.equal(found, EXPECTED)


def test_a_row_of_padding_alone_stays_in_the_pools_of_rewards():
    given = GIVEN | {
        "mask": MASK * torch.tensor([[1], [0], [1], [1]]),
        "ends": ENDS * torch.tensor([[1], [0], [1], [1]]),
    }
    found = shape_batch(**given, config=PRM)
    assert found.trainable.tolist() == [True, False, True, True]
    alone = shape_batch(**{name: tensor[[0, 2, 3]] for name, tensor in given.items()}, config=PRM)
    assert torch.equal(found.advantages[[0, 2]], alone.advantages[:2])
    assert not torch.equal(found.advantages[3], alone.advantages[2])  # its outcome is no longer compared with row 1's


def test_an_estimator_of_ones_own_sees_no_padding(tmp_path, monkeypatch):
    (tmp_path / "lengths_seen.py").write_text(
        "def estimator(group, config):\n    return [len(m) for m in group.mask]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = ShapingConfig(estimator="lengths_seen:estimator", signal="kl", weights=NO_FORMAT)
    given = TOKENS | {"scores": torch.ones(4, 4)}
    found = token_advantages_from_batch(**given, config=config)
    assert found.tolist() == [[3, 3, 3, 0], [2, 2, 0, 0], [4, 0, 4, 4], [3, 3, 3, 0]]
    stepwise = ShapingConfig(estimator="lengths_seen:estimator", weights=NO_FORMAT)
    ends = torch.tensor([[1, 3, 4], [2, 3, 4], [1, 2, 4], [2, 3, 0]])  # steps of masked tokens at the end are steps
    assert token_advantages_from_batch(**(GIVEN | {"ends": ends}), config=stepwise)[1].tolist() == [4, 4, 0, 0]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", PUBLISHED)
def test_published_methods_see_the_rows_without_padding(estimator, signal):
    """Those that read further columns raise the same error."""
    order = [0, 2, 1, 3]
    config = ShapingConfig(estimator=estimator, signal=signal)
    given = (GIVEN if signal == "prm" else TOKENS) | {"format": torch.tensor([1.0, 0.0, 0.0, 1.0])}
    lengths = [3, 2, 4, 3]
    columns = {"group_id": ["5", "5", "3", "3"], "loss_mask": [MASK[r, : lengths[r]].bool().tolist() for r in order]}
    if signal == "prm":
        columns |= {"process_scores": [SCORES[r][ENDS[r] > 0].tolist() for r in order]}
        columns |= {"process_ends": pa.array([ENDS[r][ENDS[r] > 0].tolist() for r in order], pa.list_(pa.int32()))}
    else:
        columns |= {"process_scores": [TOKENS["scores"][r, : lengths[r]].tolist() for r in order]}
    columns |= {"outcome_reward": OUTCOME[order].tolist(), "format_reward": given["format"][order].tolist()}
    try:
        expected = token_advantages(shape(pa.table(columns), config)).to_pylist()
    except errors.ShapingError as error:
        with pytest.raises(type(error)):
            token_advantages_from_batch(**given, config=config)
        return
    found = token_advantages_from_batch(**given, config=config)[order].tolist()
    for r, want, row in zip(order, expected, found, strict=True):
        assert [x * m for x, m in zip(want, MASK[r].tolist(), strict=False)] == row[: lengths[r]]


@pytest.mark.parametrize("shape_", [(0, 4), (0, 0), (3, 0)])
def test_an_empty_batch_is_an_empty_result(shape_):
    rows, tokens = shape_
    given = {"mask": torch.zeros(shape_), "group_index": torch.zeros(rows, dtype=torch.long)}
    given |= {"outcome": torch.zeros(rows)}
    found = shape_batch(torch.zeros(shape_), **given, config=KL)
    assert found.advantages.shape == shape_
    assert found.trainable.tolist() == [False] * rows
    steps = torch.zeros((rows, 2), dtype=torch.long)
    assert shape_batch(steps.float(), steps, **given, config=PRM).advantages.shape == shape_
    assert tokens in (0, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_device_come_back_there():
    there = {name: tensor.cuda() for name, tensor in GIVEN.items()}
    found = shape_batch(**there, config=PRM)
    assert found.advantages.device == there["mask"].device == found.trainable.device
    assert torch.equal(found.advantages.cpu(), EXPECTED)


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED = [
    ({"mask": MASK[0]}, PRM, errors.LengthMismatchError, r"mask: the shape is \[4\], expected \[rows, tokens\]"),
    ({"mask": MASK.tolist()}, PRM, errors.ColumnTypeError, "mask: expected a torch tensor, got list"),
    ({"mask": MASK * 0.5}, PRM, errors.ColumnTypeError, r"rollout 0: mask\[0\] is 0.5, expected 0 or 1"),
    ({"mask": MASK - 1}, PRM, errors.ColumnTypeError, r"rollout 0: mask\[3\] is -1, expected 0 or 1"),
    ({"mask": MASK.to_sparse()}, PRM, errors.ColumnTypeError, "mask: expected a dense tensor"),
    ({"scores": None, "ends": None}, PRM, errors.MissingColumnError, "scores are missing: estimator 'pass'"),
    ({"ends": None}, PRM, errors.MissingColumnError, "ends are missing: config.signal is 'prm'"),
    ({"outcome": None}, PRM, errors.MissingColumnError, "outcome is missing: weights.outcome is 1"),
    ({}, ShapingConfig(), errors.MissingColumnError, "format and format_ok are both missing: weights.format is 1"),
    ({}, KL, errors.OptionError, "config.signal is 'kl', one score per token, and ends were given"),
    ({}, {"k": 0.5}, errors.OptionError, "config: expected a ShapingConfig"),
    ({"scores": SCORES, "ends": None}, KL, errors.LengthMismatchError, r"scores: the shape is \[4, 3\]"),
    ({"scores": SCORES > 0}, PRM, errors.ColumnTypeError, "scores: expected floating point numbers, got bool"),
    ({"scores": SCORES.cfloat()}, PRM, errors.ColumnTypeError, "scores: expected a dense tensor of real numbers"),
    ({"scores": SCORES[:, :2]}, PRM, errors.LengthMismatchError, r"ends: .* \[4, 3\], that of scores \[4, 2\]"),
    ({"ends": ENDS[:2]}, PRM, errors.LengthMismatchError, r"ends: the shape is \[2, 3\]"),
    ({"ends": ENDS > 0}, PRM, errors.LengthMismatchError, r"ends: the shape is \[4, 3\]"),
    ({"ends": ENDS.float()}, PRM, errors.ColumnTypeError, "ends: expected integers"),
    ({"ends": ENDS + 2}, PRM, errors.StepEndsError, r"rollout 0: ends are \[3, 5, 2\] in a batch of 4 tokens"),
    ({"ends": ENDS * 2}, PRM, errors.StepEndsError, r"rollout 0: ends are \[2, 6, 0\]"),
    ({"ends": ENDS.flip(1)}, PRM, errors.StepEndsError, r"rollout 0: ends are \[0, 3, 1\]"),
    ({"ends": -ENDS}, PRM, errors.StepEndsError, r"rollout 0: ends are \[-1, -3, 0\]"),
    ({"ends": ENDS[[0, 1, 0, 3]]}, PRM, errors.StepEndsError, "rollout 2: token 3 counts and lies after the last step"),
    ({"ends": ENDS * 0}, PRM, errors.StepEndsError, "rollout 0: token 0 counts and lies after the last step"),
    ({"group_index": INDEX[:3]}, PRM, errors.LengthMismatchError, r"group_index: the shape is \[3\]"),
    ({"group_index": INDEX.float()}, PRM, errors.ColumnTypeError, "group_index: expected integers or strings"),
    ({"group_index": ["a", None, "a", "b"]}, PRM, errors.NullValueError, "rollout 1: group_index is None"),
    ({"group_index": ["a", NAN, "a", "b"]}, PRM, errors.NullValueError, "rollout 1: group_index is nan"),
    ({"outcome": OUTCOME[:, None]}, PRM, errors.LengthMismatchError, r"outcome: the shape is \[4, 1\]"),
    ({"outcome": OUTCOME / 0}, PRM, errors.NonFiniteError, "rollout 0: outcome_reward is inf"),
    ({"scores": SCORES / 0}, PRM, errors.NonFiniteError, "rollout 0: "),
    ({"format_ok": OUTCOME / 2}, PRM, errors.ColumnTypeError, "rollout 0: format_ok is 0.5, expected 0 or 1"),
    ({"scores": SCORES.double() * 1e300}, PRM, errors.ColumnTypeError, "rollout 0: .* would become inf"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "config", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(changed, config, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        token_advantages_from_batch(**(GIVEN | changed), config=config)
    assert type(caught.value) is error


def test_an_error_names_the_row_of_the_batch_where_groups_lie_across():
    spoiled = SCORES.clone()
    spoiled[2, 0] = math.inf
    with pytest.raises(errors.NonFiniteError, match=r"^rollout 2: "):
        token_advantages_from_batch(**(GIVEN | {"scores": spoiled}), config=PRM)


def test_options_without_the_process_signal_need_no_scores():
    config = ShapingConfig(estimator="grpo_outcome", weights=NO_FORMAT)
    found = token_advantages_from_batch(None, mask=MASK, group_index=INDEX, outcome=OUTCOME, config=config)
    assert torch.equal(found, token_advantages_from_batch(**GIVEN, config=config))
    assert found[0, 0] == -found[2, 0] == pytest.approx(0.5**0.5, abs=1e-5)
    assert Options().estimator == "pass"
