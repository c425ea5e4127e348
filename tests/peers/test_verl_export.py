"""verl's own DataProto takes what is exported, and its estimator reads it: `make test-peers`."""

from __future__ import annotations

import torch
from exported import REWARDS, ROWS, exported, weights_of
from verl import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage


def test_what_is_exported_is_a_dataproto_and_verl_computes_with_it(tmp_path):
    content = torch.load(exported(tmp_path, "verl"), weights_only=True)
    data = DataProto.from_dict(
        tensors=content["batch"], non_tensors=content["non_tensor_batch"], meta_info=content["meta_info"]
    )
    assert len(data) == len(ROWS)
    assert data.meta_info == {"temperature": 0.75}
    assert data.non_tensor_batch["uid"].tolist() == ["a", "a", "b"]
    assert [data[at].non_tensor_batch["reward_model"]["ground_truth"] for at in range(3)] == ["4", "4", None]
    for at, (_, prompt, tokens, mask, logprobs, _) in enumerate(ROWS):
        row, width = data[at].batch, data.batch["prompts"].shape[1]
        whole = row["input_ids"][row["attention_mask"].bool()]
        assert whole.tolist() == [*prompt, *tokens]
        assert row["position_ids"][row["attention_mask"].bool()].tolist() == list(range(len(whole)))
        assert row["responses"][: len(tokens)].tolist() == tokens
        assert row["response_mask"].tolist() == [int(m) for m in mask] + [0] * (4 - len(mask))
        assert row["rollout_log_probs"][: len(tokens)].tolist() == logprobs
        assert row["advantages"][: len(tokens)].tolist() == weights_of(at)
        assert row["attention_mask"][:width].sum() == len(prompt)
        assert row["token_level_scores"].sum() == REWARDS[at]
    # verl's own estimator and loss read the batch
    data.batch["token_level_rewards"] = data.batch["token_level_scores"]
    outcome = compute_advantage(data, adv_estimator="grpo", norm_adv_by_std_in_grpo=True)
    assert (outcome.batch["advantages"][0] > 0).tolist() == [True, True, False, True]
