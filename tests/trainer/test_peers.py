"""The same loss as TRL and verl for the same settings: their numbers are made by peers/make_golden.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.losses import LossInputs, loss_weights, policy_loss
from trainer.options import TrainOptions

PEERS = Path(__file__).parent / "peers"
GOLDEN = {name: json.loads((PEERS / f"{name}.json").read_text()) for name in ("trl", "verl")}
BATCH = {name: np.array(value) for name, value in json.loads((PEERS / "batch.json").read_text()).items()}
CASES = [(peer, case) for peer, golden in GOLDEN.items() for case in golden["cases"]]


def ours(options: TrainOptions) -> tuple[float, np.ndarray]:
    """Our loss of the stored batch and its gradient by the log-probabilities, laid out as theirs."""
    mask = BATCH["mask"].astype(bool)
    rows, _ = np.nonzero(mask)
    per_rollout = loss_weights(mask.sum(1), aggregation=options.aggregation, constant=options.aggregation_constant)
    tokens = {name: torch.tensor(values[mask], dtype=torch.float32) for name, values in BATCH.items()}
    logprobs = tokens["logprobs"].requires_grad_()
    inputs = LossInputs(
        logprobs_N=logprobs,
        logprobs_t1_N=logprobs,
        entropy_N=torch.zeros_like(logprobs),
        behavior_N=tokens["behavior"],
        old_N=tokens["old"] if options.old_policy == "recompute" else None,
        advantages_N=tokens["rollout_advantages" if options.loss == "gspo" else "advantages"],
        reference_N=tokens["reference"] if options.kl_coef else None,
        weights_N=torch.tensor(per_rollout[rows], dtype=torch.float32),
        rows_N=torch.tensor(rows),
    )
    loss, _ = policy_loss(inputs, options)
    gradient = np.zeros(mask.shape)
    gradient[mask] = torch.autograd.grad(loss, logprobs)[0].numpy()
    return loss.item(), gradient


@pytest.mark.parametrize(("peer", "case"), CASES, ids=[f"{peer}: {case}" for peer, case in CASES])
def test_loss_and_gradient_are_the_peers(peer, case):
    golden = GOLDEN[peer]["cases"][case]
    loss, gradient = ours(TrainOptions(**golden["options"]))
    assert loss == pytest.approx(golden["loss"], abs=1e-5)
    np.testing.assert_allclose(gradient, np.array(golden["gradient"]), atol=1e-5)


def test_the_cases_are_unlike_each_other():
    losses = [round(golden["loss"], 5) for peer in GOLDEN.values() for golden in peer["cases"].values()]
    assert len(set(losses)) == len(losses) - 2  # TRL's dapo is bnpo where there is one batch; both peers have gspo


def test_the_numbers_name_the_versions_they_come_from():
    assert GOLDEN["trl"]["versions"]["trl"] == "1.16.0"
    assert GOLDEN["verl"]["versions"]["verl"] == "0.9.1"
