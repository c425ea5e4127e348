"""A Beam pipeline of your own that contains a stage: score stored rollouts, then go on with what was scored.

    python examples/beam_pipeline.py [FOLDER]

`score_stage` plans the stage and begins its dataset; `StageParts` turns the plan into a step of any pipeline, on any
runner. Parts that are committed already are not done again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pass_ops.shards import open_dataset
from pipelines import (
    EngineOptions,
    GenerateOptions,
    PromptSource,
    Sampling,
    StageParts,
    build_signal,
    generate,
    score_stage,
    write_prompts,
)
from pipelines.demo import Split, asset_folder, prompt_rows
from pipelines.runners.quiet import beam  # apache_beam, without its warnings

RUNNER = "FnApiRunner"  # Beam's own default would look for another one to download


def lengths(signal: str, rollouts_url: str) -> Iterator[tuple[bool, int]]:
    """Of every rollout of a format signal: whether its form is right, and how long it is."""
    scored, rollouts = open_dataset(signal), open_dataset(rollouts_url)
    for part in range(len(scored.parts)):
        tokens = rollouts.read_part(part, columns=["token_ids"])["token_ids"].to_pylist()
        for ok, ids in zip(scored.read_part(part)["format_ok"].to_pylist(), tokens, strict=True):
            yield ok, len(ids)


def main(folder: str) -> None:
    """Make rollouts from recorded answers, so that no model runs; score and sum them up in one pipeline."""
    out = Path(folder)
    rows = prompt_rows(12, seed=0, split=Split.ROUNDS)
    (out / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_prompts(PromptSource(source=f"{out}/tasks.jsonl", prompts_per_part=4), out=f"{out}/prompts")
    generate(
        prompts=f"{out}/prompts",
        out=f"{out}/rollouts",
        model=str(asset_folder("policy")),
        engine=EngineOptions(kind="recorded", recording="synthetic:1"),
        options=GenerateOptions(group_size=2, sampling=Sampling(max_tokens=24)),
    )
    signal = build_signal("format", {"pattern": r"\d", "mode": "search"})
    stage = score_stage(signal=signal, rollouts=f"{out}/rollouts", out=f"{out}/has-a-digit")

    with beam.Pipeline(RUNNER) as pipeline:
        (
            pipeline
            | "score" >> StageParts(stage)
            | "read" >> beam.FlatMap(lengths, f"{out}/rollouts")
            | "mean" >> beam.combiners.Mean.PerKey()
            | "tell" >> beam.MapTuple(lambda ok, mean: print(f"digit {ok}: {mean:.1f} tokens on average"))
        )
    print(f"{open_dataset(f'{out}/has-a-digit').spec.parts} parts are scored and finalized")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
