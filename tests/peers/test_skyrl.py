"""SkyRL's registry and the parts of its trainer between generator and update, on a CPU: `make test-peers`.

A batch goes the way SkyRL sends it: `convert_to_training_input`, which pads and fills up, then
`compute_advantages_and_returns`, which asks the registry. Sampling and updates are Ray workers on GPUs.
"""

from __future__ import annotations

import typing
from types import SimpleNamespace

import pyarrow as pa
import pytest
import tiny
import typing_extensions

# SkyRL 0.3 has typing.TypedDict in a pydantic model, which pydantic refuses before Python 3.12
typing.TypedDict = typing_extensions.TypedDict

from skyrl.backends.skyrl_train.utils.ppo_utils import AdvantageEstimatorRegistry  # noqa: E402
from skyrl.train.config import SkyRLTrainConfig  # noqa: E402

from pass_ops import ShapingConfig, Weights, shape, token_advantages  # noqa: E402
from pass_ops.errors import MissingColumnError  # noqa: E402
from passrl_integrations.carried import streams  # noqa: E402
from passrl_integrations.skyrl import pass_advantages, pass_trainer  # noqa: E402

SHAPING = ShapingConfig(k=0.7, weights=Weights(format=0.5))
UIDS = ["a", "a", "a", "b", "b", "b"]
LENGTHS = [6, 4, 5, 3, 6, 2]
MASKS = [[1, 1, 0, 0, 1, 1], *([1] * length for length in LENGTHS[1:])]  # a tool spoke in the first
STEPS = [([0.5, 1.0], [2, 6]), ([0.1, 0.2, 0.9], [1, 2, 4]), None, ([0.3], [3]), ([1.0, 0.0], [4, 6]), ([0.7], [2])]
OUTCOME = [1.0, 0.0, 0.0, 1.0, None, 0.0]
FORMAT = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0]


def generated(**more) -> dict:
    """A generator's output, with the list that the plug-in asks for."""
    return {
        "prompt_token_ids": [[2, 3, 4][: 1 + row % 3] for row in range(6)],
        "response_ids": [[(row + place) % 40 for place in range(length)] for row, length in enumerate(LENGTHS)],
        "rewards": [[*[0.0] * (length - 1), OUTCOME[row] or 0.0] for row, length in enumerate(LENGTHS)],
        "loss_masks": MASKS, "rollout_logprobs": None,
        "pass_streams": [streams(OUTCOME[row], STEPS[row], format=FORMAT[row]) for row in range(6)],
    } | more  # fmt: skip


def trainer_of(shaping: ShapingConfig = SHAPING, estimator: str = "pass"):
    """SkyRL's trainer of which nothing but a configuration, a tokenizer and four ranks' worth of padding exists."""
    made = pass_trainer(shaping)
    trainer = made.__new__(made)
    trainer.cfg = SkyRLTrainConfig()
    trainer.cfg.trainer.algorithm.advantage_estimator = estimator
    trainer.cfg.trainer.train_batch_size = trainer.cfg.trainer.policy_mini_batch_size = 2
    trainer.cfg.generator.n_samples_per_prompt = 3
    trainer.tokenizer, trainer.all_metrics = tiny.tokenizer(), {}
    trainer.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: 4)
    return trainer


def batch_of(trainer, **more):
    """The generator's output as the training batch after SkyRL's forward passes, without a critic."""
    batch = trainer.convert_to_training_input(generated(**more), list(UIDS))
    batch["values"] = None
    return batch


def expected() -> list[list[float]]:
    columns = {
        "group_id": UIDS, "loss_mask": [[bool(m) for m in mask] for mask in MASKS],
        "process_scores": pa.array([signal and signal[0] for signal in STEPS], pa.list_(pa.float32())),
        "process_ends": pa.array([signal and signal[1] for signal in STEPS], pa.list_(pa.int32())),
        "outcome_reward": pa.array(OUTCOME, pa.float32()), "format_reward": pa.array(FORMAT, pa.float32()),
    }  # fmt: skip
    found = token_advantages(shape(pa.table(columns), SHAPING)).to_pylist()
    return [[a * m for a, m in zip(row, mask, strict=True)] for row, mask in zip(found, MASKS, strict=True)]


def test_skyrls_registry_has_the_estimator():
    assert "pass" in AdvantageEstimatorRegistry.list_available()
    with pytest.raises(MissingColumnError, match=r"return its trainer from get_trainer"):
        AdvantageEstimatorRegistry.get("pass")(token_level_rewards=None, response_mask=None, index=UIDS)
    assert AdvantageEstimatorRegistry.get("pass").__wrapped__ is pass_advantages.__wrapped__


def test_step_scores_reach_the_advantages_of_skyrls_trainer():
    trainer = trainer_of()
    batch = batch_of(trainer)
    assert len(batch["loss_mask"]) == 8  # two rows of padding for the ranks
    batch = trainer.compute_advantages_and_returns(batch)
    found, counted = batch["advantages"], batch["response_mask"].bool()
    for row, wanted in enumerate(expected()):
        assert found[row][counted[row]].tolist() == pytest.approx(wanted, abs=1e-6)
        assert not found[row][~counted[row]].any()
    assert not found[2].any()  # no process signal
    assert not found[4].any()  # no outcome
    assert not found[6:].any()  # SkyRL's padding
    assert len(set(found[0][counted[0]].tolist())) > 2


def test_skyrls_own_estimators_still_run_in_that_trainer():
    trainer = trainer_of(estimator="grpo")
    found = trainer.compute_advantages_and_returns(batch_of(trainer))["advantages"]
    assert found[1].unique().numel() == 2  # one number for a response, and its padding


def test_a_generator_without_streams_is_named():
    trainer = trainer_of()
    with pytest.raises(MissingColumnError, match=r"generator's output has no 'pass_streams'"):
        trainer.compute_advantages_and_returns(batch_of(trainer, pass_streams=None))
