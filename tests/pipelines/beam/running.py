"""Small pipelines on Beam's own runner, what comes out of them, and rollouts to put in."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pass_ops import ShapingConfig
from pass_ops.shards import STAGE_VERSIONS, DatasetSpec
from pipelines.runners.quiet import beam

CARRIED = {
    "sampling": {"group_size": 4, "temperature": 1.0, "logprobs_mode": "raw_logprobs"},
    "tokenizer_digest": "t",
    "vocabulary": {"size": 50},
    "round": 0,
    "policy_digest": "p",
}


class Kept(beam.DoFn):
    """Writes each element to a file of its own: workers may be other processes."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, element: Any) -> Iterator[None]:
        Path(self._folder, uuid.uuid4().hex).write_bytes(pickle.dumps(element))
        yield from ()


def ran(
    construct: Callable[[Any], dict[str, Any] | None], folder: Path, *, flags: list[str] | None = None
) -> dict[str, list[Any]]:
    """Run one pipeline; the elements of each PCollection that `construct` returns, by its name."""
    from apache_beam.options.pipeline_options import PipelineOptions

    kept = folder / f"kept-{uuid.uuid4().hex}"
    with beam.Pipeline("FnApiRunner", PipelineOptions(flags or [])) as pipeline:
        named = construct(pipeline) or {}
        for name, collection in named.items():
            (kept / name).mkdir(parents=True)
            _ = collection | f"keep {name}" >> beam.ParDo(Kept(str(kept / name)))
    return {name: [pickle.loads(file.read_bytes()) for file in (kept / name).iterdir()] for name in named}


def rollout(group: str, index: int, *, steps: int = 2, **changed: Any) -> dict[str, Any]:
    """A rollout of a few tokens, one masked, with its signals, as plain data."""
    length = 3 + steps + index % 3
    ends = [*range(2, 1 + steps), length]
    row = {
        "group_id": group,
        "sample_index": index,
        "rollout_id": f"{group}/{index}",
        "prompt_token_ids": [1, 2],
        "token_ids": [(7 * index + place) % 50 for place in range(length)],
        "text": f"answer {index} of {group}",
        "behavior_logprobs": [-0.25 * (place + 1) * (place != 1) for place in range(length)],
        "loss_mask": [place != 1 for place in range(length)],
        "finish_reason": "stop",
        "seed": 1000 + index,
        "answer": None if index % 2 else "4",
        "process_scores": [((31 * index + 17 * place + len(group)) % 11) / 10 for place in range(len(ends))],
        "process_ends": ends,
        "outcome_reward": float(index % 2),
        "format_reward": 1.0,
        "format_ok": index != 2,
    }
    return {**row, **changed}


def rollouts(*groups: str, size: int = 4) -> list[dict[str, Any]]:
    """Groups of rollouts, in order."""
    return [rollout(group, index, steps=1 + (index + place) % 3) for place, group in enumerate(groups)
            for index in range(size)]  # fmt: skip


def shaped_spec(parts: int, config: ShapingConfig | None = None, **carried: Any) -> DatasetSpec:
    """What a shaped dataset of such rollouts is."""
    return DatasetSpec(
        stage="shape",
        stage_version=STAGE_VERSIONS["shape"],
        options=(config or ShapingConfig()).plain(),
        parts=parts,
        carried={**CARRIED, **carried},
    )
