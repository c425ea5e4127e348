"""PASS in a Beam pipeline of your own: rollouts from a Parquet file, shaped, as a dataset that can be trained on.

    python examples/beam_shape.py [FOLDER]

Beam reads the file; it could be Kafka (so many records) or BigQuery as well, for a rollout is a plain dict. The broken
rollout becomes a rejection of the dataset, and a second run finds everything committed.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops import ShapingConfig, token_advantages
from pass_ops.shards import STAGE_VERSIONS, DatasetSpec, open_dataset
from pipelines.beam import ReadShards, ShapeGroups, WriteShards
from pipelines.runners.quiet import beam  # apache_beam, without its warnings

RUNNER = "FnApiRunner"  # Beam's own default would look for another one to download


def rollout(task: int, sample: int) -> dict[str, object]:
    """One rollout with its signals, as your own code may have stored it: here of three steps, each scored at random."""
    chance = random.Random(f"{task}/{sample}")
    ends = [3, 5, 5 + chance.randint(1, 4)]
    tokens = ends[-1]
    return {
        "group_id": f"task-{task}",
        "sample_index": sample,
        "rollout_id": f"task-{task}/{sample}",
        "prompt_token_ids": [1, 2, 3],
        "token_ids": [chance.randrange(50) for _ in range(tokens)],
        "text": "...",
        "behavior_logprobs": [-chance.random() for _ in range(tokens)],
        "loss_mask": [True] * tokens,
        "finish_reason": "stop",
        "seed": chance.getrandbits(63),
        "answer": "42",
        "process_scores": [chance.random() for _ in ends],
        "process_ends": ends if (task, sample) != (7, 2) else ends[::-1],  # a fault of whoever stored it
        "outcome_reward": float(chance.random() < 0.5),
        "format_reward": 1.0,
    }


def main(folder: str) -> None:
    """Shape what a file holds, and look at what came out, each in a pipeline."""
    out = Path(folder)
    rows = [rollout(task, sample) for task in range(40) for sample in range(8)]
    random.Random(0).shuffle(rows)  # in any order
    pq.write_table(pa.Table.from_pylist(rows), out / "mine.parquet", row_group_size=50)

    config = ShapingConfig(k=0.7)
    spec = DatasetSpec(
        stage="shape",
        stage_version=STAGE_VERSIONS["shape"],
        options=config.plain(),
        parts=4,
        carried={  # what a trainer must know of these rollouts
            "sampling": {"group_size": 8, "temperature": 1.0},
            "tokenizer_digest": "my-tokenizer",
            "vocabulary": {"size": 50},
            "round": 0,
            "policy_digest": "my-policy",
        },
    )
    with beam.Pipeline(RUNNER) as pipeline:
        shaped, rejected = pipeline | beam.io.ReadFromParquet(f"{out}/mine.parquet") | ShapeGroups(config)
        _ = (shaped, rejected) | WriteShards(f"{out}/shaped", spec)

    dataset = open_dataset(f"{out}/shaped")
    totals = dataset.manifest.totals
    print(f"{totals['parts']} parts, {totals['groups']} groups, {totals['rows']} rollouts")
    print(f"rejected: {dict(dataset.manifest.rejected)}")
    with beam.Pipeline(RUNNER) as pipeline:
        _ = (
            pipeline
            | ReadShards(f"{out}/shaped")
            | beam.FlatMap(lambda table: token_advantages(table).flatten().to_pylist())
            | beam.CombineGlobally(beam.combiners.MeanCombineFn())
            | beam.Map(lambda mean: print(f"mean advantage of a token: {mean:+.3f}"))
        )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
