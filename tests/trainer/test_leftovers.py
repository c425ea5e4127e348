"""What a run leaves on the device: nothing, however it ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.run
from tests.trainer.rows import random_rows, split_groups
from trainer import TrainOptions, train
from trainer.errors import DeviceMemoryError

OPTIONS = TrainOptions(lr=1e-3, batch_size=2, micro_batch_tokens=40, device="cpu", tensorboard=False)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Weak references to every model and optimizer that a run makes."""
    references: list[weakref.ref] = []
    load_policy, make_optimizer = trainer.run.load_policy, trainer.run.make_optimizer

    def load(*arguments: Any) -> Any:
        policy = load_policy(*arguments)
        references.append(weakref.ref(policy.model))
        return policy

    def make(*arguments: Any) -> Any:
        optimizer = make_optimizer(*arguments)
        references.append(weakref.ref(optimizer))
        return optimizer

    monkeypatch.setattr(trainer.run, "load_policy", load)
    monkeypatch.setattr(trainer.run, "make_optimizer", make)
    return references


@pytest.fixture
def run(make_shaped: Callable[..., str], policy_folder: str, tmp_path: Path) -> Callable[[], Any]:
    shaped = make_shaped(split_groups(random_rows(groups=4, size=2), 2))
    return lambda: train([shaped], policy=policy_folder, out=str(tmp_path / "out"), options=OPTIONS)


def test_a_finished_run_leaves_neither_model_nor_optimizer(run: Callable[[], Any], watched: list[weakref.ref]) -> None:
    result = run()
    assert result.steps > 0
    assert len(watched) == 2
    assert [reference() for reference in watched] == [None, None]


@pytest.mark.parametrize("place", ["backward", "apply_gradients"])
def test_nor_does_one_that_ran_out_of_memory_while_its_error_is_kept(
    run: Callable[[], Any], watched: list[weakref.ref], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer.run, place, full)
    with pytest.raises(DeviceMemoryError) as kept:
        run()
    assert [reference() for reference in watched] == [None, None]
    assert kept.value.__cause__ is not None, "the error still says what it came from"
