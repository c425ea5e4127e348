"""One seed's rollouts of every arm as shards: `kept_rows` while a cell runs, `publish` afterwards.

A run folder an arm and level, imported by `passrl import`'s own code, and a card that says what they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.study.alphabet import spans, text
from benchmarks.study.arms import ARMS, cell_of
from benchmarks.study.signals import Batch
from benchmarks.study.size import FIRST_SEED, STUDY
from pipelines.imports.run import ImportOptions, import_rollouts

#: the seed whose rollouts are kept, and the rounds
KEPT_SEED = FIRST_SEED
KEPT_ROUNDS = (0, STUDY.rounds // 2, STUDY.rounds - 1)
_PLAIN = ("prompt", "response", "group", "sample_index", "prompt_token_ids", "token_ids", "logprobs", "finish_reason")


def kept_rows(number: int, batch: Batch, signals: pa.Table) -> Iterator[dict[str, Any]]:
    """A round's rollouts as rows of `passrl import rows`: texts, ids, log-probabilities, rewards, step scores."""
    columns = signals.to_pydict()
    for row, (completion, judged) in enumerate(zip(batch.completions, batch.judged, strict=True)):
        group, index = divmod(row, batch.copies)
        stepwise = "process_ends" in columns
        yield {
            "prompt": text(batch.prompts[group]),
            "response": text(completion.ids),
            "group": f"round-{number:02d}/{group:02d}",
            "sample_index": index,
            "prompt_token_ids": list(batch.prompts[group]),
            "token_ids": list(completion.ids),
            "logprobs": completion.logprobs.tolist(),
            "finish_reason": "length" if completion.truncated else "stop",
            "outcome": columns["outcome_reward"][row],
            "format": float(judged.format_ok),
            "steps": [text(completion.ids[start:end]) for start, end in spans(judged.ends)] if stepwise else None,
            "step_scores": columns["process_scores"][row] if stepwise else None,
        }


def write_kept(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows of a cell, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {
        "prompt_token_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "steps": pa.list_(pa.string()),
        "step_scores": pa.list_(pa.float64()),
        "sample_index": pa.int32(),
        "outcome": pa.float32(),
        "format": pa.float32(),
    }
    schema = pa.schema([(name, lists.get(name, pa.string())) for name in rows[0]])
    fresh = path.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), fresh, compression="zstd")
    fresh.rename(path)


def publish(out: Path, *, models: Path, kept: Path) -> None:
    """Imports every kept cell into ``out``/CELL and writes the card ``out``/README.md.

    Raises ValueError where no cell was kept.
    """
    files = sorted(kept.glob("*.parquet"))
    if not files:
        raise ValueError(f"{kept} holds no rollouts, so there is nothing to publish; run the cells of seed {KEPT_SEED}")
    sizes = {}
    for file in files:
        stepwise = ARMS[cell_of(file.stem).arm].signal == "prm"
        names = [*_PLAIN, *(["steps", "step_scores"] if stepwise else [])]
        mapping = (*[f"{name}={name}" for name in names], "reward.outcome=outcome", "reward.format=format")
        found = import_rollouts(
            str(file),
            out=str(out / file.stem),
            options=ImportOptions(
                format="rows", mapping=mapping, tokenizer=str(models / "policy"), temperature=1.0, name="study"
            ),
        )
        sizes[file.stem] = int(found.manifests["rollouts"].totals["rows"])
    (out / "README.md").write_text(_card(sizes, models))


def _card(sizes: dict[str, int], models: Path) -> str:
    policy = json.loads((models / "policy" / "card.json").read_text())
    rounds = ", ".join(str(number) for number in KEPT_ROUNDS)
    lines = [
        "# Rollouts of the study",
        "",
        f"Seed {KEPT_SEED}, rounds {rounds} of {STUDY.rounds}, every arm and level, as folders of the "
        "[data contract](../../spec/contract.md): prompts, rollouts with token ids and log-probabilities at "
        "temperature 1, the rewards `outcome` and `format`, and where an arm has a process reward model its scores as "
        f"the signal `steps`. Sampled by the study's policy (pass@1 {policy['pass1']:.3f} at the start) while it was "
        "trained; groups are named after their round. The world: `benchmarks/study/tasks.py`. Apache-2.0; synthetic, "
        "no person's data.",
        "",
        "    .venv/bin/python -m benchmarks.study publish --out docs/study/rollouts",
        "",
        "| folder | rollouts |",
        "| --- | --- |",
        *(f"| `{name}` | {count:,} |" for name, count in sizes.items()),
    ]
    return "\n".join(lines) + "\n"
