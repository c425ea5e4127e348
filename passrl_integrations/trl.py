"""TRL: a GRPOTrainer whose advantages are one for each token, [B, T].

TRL's loss takes them (`GRPOTrainer._compute_loss`); what it lacks is a process signal and a place to shape it. This
subclass calls `process_func` where TRL calls its reward functions, shapes over the groups of all processes, and puts
the result in the place of TRL's advantages before they are shuffled and split. Generation, loss, denominators, logging
and everything else stay TRL's; `scale_rewards` and `multi_objective_aggregation` have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pass_ops.errors import OptionError
from pass_ops.options.config import ShapingConfig
from passrl_integrations.steps import process_tensors, token_advantages_from_batch
from passrl_integrations.versions import require

VERSION = require("trl")

from trl import GRPOTrainer  # noqa: E402 - only where the release is known

#: called as reward functions are, with keywords prompts, completions, completion_ids and the data set's columns; gives
#: for each completion what `passrl_integrations.steps.process_tensors` takes
ProcessFunction = Callable[..., Sequence[Any]]


class PassGRPOTrainer(GRPOTrainer):
    """GRPOTrainer with the token advantages of an estimator of `pass_ops`.

    Args:
        process_func: the process signal, called with the keywords that reward functions get. For each completion it
            returns (scores, ends) of its steps, exclusive token ends into completion_ids, or with signal "kl" one score
            per token; None where there is none. Not called where the estimator reads none.
        shaping: the estimator and its options.
        format_func: the reward function whose reward is the format stream; by its name. All the others, with TRL's
            `reward_weights`, make the outcome.
        format_gate: whether that reward, 0 or 1, is also the gate of `pass`.
        arguments: GRPOTrainer's.

    Raises:
        OptionError: `format_func` is no reward function's name, or the options need a process signal or a format
            reward and there is none.
    """

    def __init__(
        self,
        *arguments: Any,
        process_func: ProcessFunction | None = None,
        shaping: ShapingConfig = ShapingConfig(),
        format_func: str | None = None,
        format_gate: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        if format_func is not None and format_func not in self.reward_func_names:
            raise OptionError(
                f"format_func: {format_func!r} is none of the reward functions {self.reward_func_names}; name one of "
                "them"
            )
        if shaping.weights.format != 0.0 and format_func is None:
            raise OptionError(
                f"shaping.weights.format is {shaping.weights.format:g}, and no reward function is the format stream; "
                "name it as format_func, or set the weight to 0"
            )
        if shaping.reads_process and process_func is None:
            raise OptionError(f"estimator {shaping.estimator!r} reads a process signal; give it as process_func")
        self._process_func, self._shaping = process_func, shaping
        self._format_func, self._format_gate = format_func, format_gate
        self._rewards_and_signals: tuple[torch.Tensor, Sequence[Any] | None, list[int]]

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        signals = None
        if self._process_func is not None and self._shaping.reads_process:
            columns = {
                name: [row[name] for row in inputs]
                for name in inputs[0]
                if name not in ("prompt", "completion", "completion_ids")
            }
            signals = self._process_func(
                prompts=prompts, completions=completions, completion_ids=completion_ids_list, **columns
            )
        self._rewards_and_signals = (rewards, signals, [len(ids) for ids in completion_ids_list])
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"]
        if "tool_mask" in output:
            mask = mask * output["tool_mask"]
        output["advantages"] = self._token_advantages(mask)
        return output

    def _token_advantages(self, mask: torch.Tensor) -> torch.Tensor:
        """The advantages of this process's completions, [B, T], shaped over the groups of all processes."""
        rewards, signals, lengths = self._rewards_and_signals
        scores = ends = None
        if signals is not None:
            scores, ends = process_tensors(signals, mask=mask, lengths=lengths, config=self._shaping)
        generations = self.num_generations if self.model.training else self.num_generations_eval
        outcome, given = self._streams(rewards)
        everyones = self._gathered(mask)
        scores, ends = (None if values is None else self._gathered(values) for values in (scores, ends))
        advantages = token_advantages_from_batch(
            scores, ends, mask=everyones, outcome=outcome, **given,
            group_index=torch.arange(len(everyones)) // generations, config=self._shaping,
        )  # fmt: skip
        self._log_means(advantages, everyones)
        first = self.accelerator.process_index * len(mask)
        return advantages[first : first + len(mask), : mask.shape[1]]

    def _streams(self, rewards: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The outcome of each completion, NaN where all its functions gave None as in TRL, and the format stream."""
        is_outcome = torch.tensor([name != self._format_func for name in self.reward_func_names])
        chosen = rewards[:, is_outcome.to(rewards.device)]
        weights = self.reward_weights.to(rewards.device)[is_outcome.to(rewards.device)]
        outcome = (chosen * weights).nansum(dim=1)
        outcome[chosen.isnan().all(dim=1)] = torch.nan
        if self._format_func is None:
            return outcome, {}
        reward = rewards[:, self.reward_func_names.index(self._format_func)]
        return outcome, {"format": reward} | ({"format_ok": reward} if self._format_gate else {})

    def _gathered(self, values: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, in the order of their numbers, in the width of the widest."""
        return self.accelerator.gather(self.accelerator.pad_across_processes(values.contiguous(), dim=1))

    def _log_means(self, advantages: torch.Tensor, mask: torch.Tensor) -> None:
        """In TRL's table of completions, each one's mean advantage in the place of TRL's."""
        means = (advantages * mask).sum(1) / mask.sum(1).clamp(min=1)
        logged = self._logs["advantages"]
        for _ in range(min(len(means), len(logged))):
            logged.pop()
        logged.extend(means.tolist())
