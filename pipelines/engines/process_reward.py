"""Qwen2.5-Math-PRM's model in transformers, without the remote code that its checkpoints ask for.

vLLM has the same architecture under the same name, with the same key names.
"""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):  # type: ignore[misc]
    """Logits [B, T, 2] at every token; those at a step tag, softmaxed, are (wrong, right) of the step before it."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = torch.nn.Sequential(
            torch.nn.Linear(config.hidden_size, config.hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(config.hidden_size, config.num_labels),
        )
        self.post_init()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, 2] of right-padded ``input_ids`` [B, T]."""
        hidden = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.score(hidden)
        return logits
