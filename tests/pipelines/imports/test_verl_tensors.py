"""verl's tensors as plain objects: padding, masks, rewards; and what is not opened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.imports.record import ImportSourceError
from pipelines.rows.record import RowFileError
from pipelines.runs.verify import verify


def batch(**more: Any) -> dict:
    """Two rollouts: prompts of 1 and 2 tokens filled up on the left, completions of 3 and 2 on the right."""
    tensors = {
        "prompts": torch.tensor([[0, 1], [1, 2]]),
        "responses": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "response_mask": torch.tensor([[1, 0, 1], [1, 1, 0]]),
        "rollout_log_probs": torch.tensor([[-0.5, 0.0, -0.25], [-1.0, -2.0, 0.0]]),
        "rm_scores": torch.tensor([[0.0, 0.0, 1.0], [0.25, 0.5, 0.0]]),
    }
    return tensors | more


def plain(tensors: dict, **others: Any) -> dict:
    own = {"uid": ["u", "w"], "reward_model": [{"ground_truth": "5"}] * 2, "acc": np.array([True, False]), **others}
    return {"batch": tensors, "non_tensor_batch": own, "meta_info": {"temperature": 1.0}}


def saved(path: Path, held: Any) -> Path:
    torch.save(held, path)
    return path


def test_rollouts_without_their_padding(import_run, tmp_path: Path, tiny_model) -> None:
    run = import_run("verl_tensors", saved(tmp_path / "step_3.pt", plain(batch())), tokenizer=tiny_model)
    first, second = run.rows("rollouts")
    assert (first["prompt_token_ids"], second["prompt_token_ids"]) == ([1], [1, 2])
    assert (first["token_ids"], first["loss_mask"]) == ([5, 6, 7], [True, False, True])
    assert (second["token_ids"], second["behavior_logprobs"]) == ([8, 9], [-1.0, -2.0])
    assert [row["outcome_reward"] for row in run.rows("signals", "score")] == [1.0, 0.75]
    assert [row["outcome_reward"] for row in run.rows("signals", "acc")] == [1.0, 0.0]
    assert (first["answer"], first["group_id"], run.block()["temperature"]) == ("5", "step_3-u", "source")


def test_two_prompts_of_one_uid_are_a_rejected_row(import_run, tmp_path: Path, tiny_model) -> None:
    path = saved(tmp_path / "step_3.pt", plain(batch(), uid=["u", "u"]))
    run = import_run("verl_tensors", path, tokenizer=tiny_model, max_reject_rate=0.9)
    assert [row["reason"] for row in run.rejected("rollouts")] == ["conflicting_prompt"]
    assert verify(run.url) == []


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"attention_mask": torch.ones(2, 4, dtype=torch.int64)}, "lengths", "4 values in attention_mask"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 0, 1]] * 2)}, "attention_mask", "leaves out tokens within"),
        ({"response_mask": torch.ones(2, 2, dtype=torch.int64)}, "lengths", "2 in response_mask"),
        ({"response_mask": torch.full((2, 3), 0.5)}, "loss_mask", "0 and 1"),
        ({"rollout_log_probs": torch.full((2, 3), 0.5)}, "logprobs", "at most 0"),
        ({"rollout_log_probs": torch.full((2, 3), float("nan"))}, "logprobs", "nan"),
        ({"rm_scores": torch.full((2, 3), float("inf"))}, "reward", "not a finite number"),
        ({"responses": torch.full((2, 3), -1)}, "token_ids", "-1"),
        ({"responses": torch.full((2, 3), 0.5)}, "token_ids", "whole numbers"),
    ],
)
def test_a_bad_row_says_what_is_wrong(tmp_path: Path, entries, change: dict, reason: str, detail: str) -> None:
    from pipelines.imports.formats import import_format

    first, *_ = entries(saved(tmp_path / "a.pt", plain(batch(**change))), import_format("verl_tensors"))
    assert (first.reason, first.where) == (reason, "a.pt row 0")
    assert detail in first.detail


def test_columns_of_unequal_lengths_and_files_without_a_batch_are_refused(import_run, tmp_path: Path) -> None:
    with pytest.raises(RowFileError, match="one row of each for every rollout"):
        import_run("verl_tensors", saved(tmp_path / "a.pt", plain(batch(), uid=["u"])))
    with pytest.raises(RowFileError, match="holds no batch of tensors"):
        import_run("verl_tensors", saved(tmp_path / "b.pt", [1, 2]))


def test_a_pickled_dataproto_is_not_opened(import_run, tmp_path: Path) -> None:
    (tmp_path / "gen_batch.dp").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ImportSourceError, match=r"pickle of verl's DataProto, and was not opened.*two lines"):
        import_run("verl_tensors", tmp_path / "gen_batch.dp")
    torch.save({"tensordict": Path("x")}, tmp_path / "tq_batch.pt")
    with pytest.raises(RowFileError, match=r"holds more than tensors, arrays and plain values \(it needs pathlib"):
        import_run("verl_tensors", tmp_path / "tq_batch.pt")
