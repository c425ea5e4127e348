"""How rollouts were sampled, as `_dataset.json` carries it: what their log-probabilities may be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: options that cut the distribution, and their values that do not
OFF: Mapping[str, tuple[float | None, ...]] = {"top_p": (1, None), "top_k": (0, -1, None), "min_p": (0, None)}


def cuts(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Those of top_p, top_k and min_p that cut the distribution, by name.

    >>> cuts({"temperature": 0.7, "top_p": 0.9, "top_k": -1})
    {'top_p': 0.9}
    """
    return {name: sampling[name] for name, off in OFF.items() if sampling.get(name) not in off}


@dataclass(frozen=True, kw_only=True)
class SamplingFacts:
    """What decides whether behaviour log-probabilities can be compared with a model's.

    Attributes:
        temperature: None where the dataset does not say.
        logprobs_mode: raw_logprobs (log-softmax of the logits) or processed_logprobs (after temperature and cuts).
        truncated: options by which the distribution was cut, and `extra`, the engine's own, where they bend it.
    """

    temperature: float | None
    logprobs_mode: str
    truncated: Mapping[str, Any]

    @staticmethod
    def of(sampling: Mapping[str, Any] | None) -> SamplingFacts:
        """The facts in the carried `sampling` of a `DatasetSpec`."""
        given = sampling or {}
        temperature = given.get("temperature")
        bent = {"extra": given["extra"]} if given.get("truncated") and given.get("extra") else {}
        return SamplingFacts(
            temperature=None if temperature is None else float(temperature),
            logprobs_mode=str(given.get("logprobs_mode", "raw_logprobs")),
            truncated={**cuts(given), **bent},
        )

    @property
    def greedy(self) -> bool:
        """Temperature 0: the log-probabilities of such choices give no ratio."""
        return self.temperature is not None and self.temperature <= 0

    @property
    def mixes_temperatures(self) -> bool:
        """Whether the log-probabilities are those before a temperature that is not 1."""
        tempered = self.temperature is not None and self.temperature != 1
        return tempered and self.logprobs_mode.startswith("raw")

    @property
    def full_vocabulary_at_one(self) -> bool:
        """Whether they are those of temperature 1 over the full vocabulary, comparable with any other model's."""
        return self.temperature == 1 and not self.truncated
