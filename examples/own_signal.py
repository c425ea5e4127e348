"""A signal of your own: a class that gives each rollout its values, named by its import path.

    python examples/own_signal.py [FOLDER]

The same class in a configuration, where a module beside the file is found:

    [signals.confidence]
    signal = "own_signal:Confidence"
    floor = -4.0
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from pass_ops.shards import open_dataset
from pipelines import (
    EngineOptions,
    GenerateOptions,
    PromptSource,
    Row,
    Sampling,
    SignalBase,
    build_signal,
    generate,
    score,
    sidecar,
    write_prompts,
)
from pipelines.demo import Split, asset_folder, prompt_rows


@dataclass(frozen=True, kw_only=True)
class Confidence(SignalBase):
    """How sure the policy was of each token: its log-probability, no lower than `floor`. A score per token."""

    kind: ClassVar[str] = "process_tokens"

    floor: float = -5.0

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:  # noqa: ARG002 - reads no input
        """One row per rollout, in order."""
        rows = [
            Row(values={"process_scores": [max(logprob, self.floor) for logprob in logprobs]})
            for logprobs in rollouts["behavior_logprobs"].to_pylist()
        ]
        return sidecar(self.kind, rollouts, rows)


def main(folder: str) -> None:
    """Sample a few rollouts from recorded answers, so that no model runs, and score them."""
    out = Path(folder)
    rows = prompt_rows(4, seed=0, split=Split.ROUNDS)
    (out / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_prompts(PromptSource(source=f"{out}/tasks.jsonl"), out=f"{out}/prompts")
    generate(
        prompts=f"{out}/prompts",
        out=f"{out}/rollouts",
        model=str(asset_folder("policy")),
        engine=EngineOptions(kind="recorded", recording="synthetic:1"),
        options=GenerateOptions(group_size=2, sampling=Sampling(max_tokens=8)),
    )
    signal = build_signal("own_signal:Confidence", {"floor": -4.0})
    score(signal=signal, rollouts=f"{out}/rollouts", out=f"{out}/confidence")

    stored = open_dataset(f"{out}/confidence")
    print(f"{stored.spec.options['signal']} with floor {stored.spec.options['floor']:.1f}")
    for row in stored.read_part(0).to_pylist()[:4]:
        print(row["rollout_id"], [round(value, 2) for value in row["process_scores"]])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
