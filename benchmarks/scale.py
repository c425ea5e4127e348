"""Every stage and view at sizes far beyond a run of today: processor time, peak memory and growth, one JSON line each.

    python benchmarks/scale.py --out DIR [--parts 3000 30000] [--rollouts 300000 3000000] [--group 1024 4096]
                               [--long 50000 200000] [--signals 10 50] [--only score shape ... train]

Each flag is a scenario with its sizes, smallest first; without any, all of them at the sizes above. Synthetic rollouts,
a process and an outcome signal are committed as the stages would (kept below DIR; what is there is not made again),
then each command runs in a process of its own: `passrl score` (the format signal), shape, verify, status, lint,
inspect, view, and the trainer's data path (index, order, every batch of an epoch; no model). Seconds are of processor
time, peak MiB the resident set of the largest process. growth is the exponent between this size and the one before
(1: linear), after the start-up, measured on ONE part of one group, is subtracted; null where less than a second is left
of the smaller size, which says nothing. Commands that find something (verify, lint: exit code 1) have it in `found`,
any other failure ends the benchmark. Lines are added to DIR/lines.jsonl, and one that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import shards

STAGES = ("score", "shape", "verify", "status", "lint", "inspect", "view", "train")
FINDERS = ("verify", "lint")  # exit code 1: they found something
LEAST = 1.0  # processor seconds beyond the start-up, below which growth is noise
VOCABULARY, PROMPT, STEP = 1_000, 8, 16  # token ids, prompt tokens, tokens a step
DIGEST = "0" * 64
CONFIG = '[prompts]\nsource = "none.jsonl"\n[policy]\nmodel = "none"\n'
SCORE = '[signals.format]\nsignal = "format"\npattern = "^[0-9a-f]*$"\n'
ROLES = 'process = "process"\noutcome = "outcome"\nformat = "format"\n'


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one store holds: `parts` parts of `groups` groups of `group` rollouts of `tokens` tokens each."""

    parts: int
    groups: int
    group: int
    tokens: int
    signals: int = 0  # further outcome signals, each a stream of its own

    @property
    def rows(self) -> int:
        """Rollouts."""
        return self.parts * self.groups * self.group


#: flag -> (sizes where none are given, the store of a size)
SCENARIOS: dict[str, tuple[list[int], Callable[[int], Size]]] = {
    "parts": ([3_000, 30_000], lambda n: Size(parts=n, groups=1, group=2, tokens=16)),
    "rollouts": ([300_000, 3_000_000], lambda n: Size(parts=-(-n // 16_384), groups=2_048, group=8, tokens=8)),
    "group": ([1_024, 4_096], lambda n: Size(parts=4, groups=1, group=n, tokens=200)),
    "long": ([50_000, 200_000], lambda n: Size(parts=2, groups=1, group=4, tokens=n)),
    "signals": ([10, 50], lambda n: Size(parts=4, groups=64, group=8, tokens=64, signals=n)),
}
ONE = Size(parts=1, groups=1, group=2, tokens=16)


def main() -> None:
    """Measure what was asked for; a child with --train or --inputs does that one thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", help=argparse.SUPPRESS)
    for name in SCENARIOS:
        parser.add_argument(f"--{name}", type=int, nargs="*", help=f"sizes of the scenario {name}")
    given = parser.parse_args()
    if given.train:
        read_as_trainer(str(given.out))
        return
    if given.inputs:
        write_inputs(given.out, Size(**json.loads(given.inputs)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    asked = {name: getattr(given, name) for name in SCENARIOS if getattr(given, name) is not None}
    for name in asked or SCENARIOS:
        for record in measure(given.out, name, asked.get(name) or SCENARIOS[name][0], given.only):
            print(json.dumps(record), flush=True)


def measure(out: Path, scenario: str, sizes: list[int], stages: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of one scenario."""
    start_up = run_stages(out, "one", ONE, stages)
    before: dict[str, dict[str, Any]] = {}
    for n in sizes:
        size = SCENARIOS[scenario][1](n)
        found = run_stages(out, f"{scenario}-{n}", size, stages)
        for stage in stages:
            record = {"scenario": scenario, "size": n, "stage": stage, "rows": size.rows, **found[stage]}
            if stage in before:
                record["growth"] = growth(before[stage], record, start_up[stage])
            before[stage] = record
            yield record


def growth(small: dict[str, Any], large: dict[str, Any], start_up: dict[str, Any]) -> float | None:
    """The exponent of size with which processor time grows beyond that of the start; None where too little is left."""
    spent = [record["processor_s"] - start_up["processor_s"] for record in (small, large)]
    if min(spent) < LEAST:
        return None
    return round(math.log(spent[1] / spent[0]) / math.log(large["size"] / small["size"]), 2)


def run_stages(out: Path, name: str, size: Size, stages: list[str]) -> dict[str, dict[str, Any]]:
    """Stage -> what it took over a store of this size, measured now or at an earlier call."""
    folder, log = out / name, out / "lines.jsonl"
    known = [json.loads(text) for text in log.read_text().splitlines()] if log.exists() else []
    found = {record["stage"]: record for record in known if record["name"] == name}
    if set(stages) <= set(found):
        return {stage: _figures(found[stage]) for stage in stages}
    # In a process of its own: a child's peak on record begins at what its parent held.
    run([sys.executable, __file__, "--out", str(folder), "--inputs", json.dumps(asdict(size))])
    for stage in STAGES:  # each needs what those before it made
        if stage in found or not {*stages} & {stage, "shape" if stage == "score" else stage}:
            continue
        found[stage] = {"name": name, "stage": stage, **run(command_of(stage, folder), may_find=stage in FINDERS)}
        with log.open("a") as stream:
            stream.write(json.dumps(found[stage]) + "\n")
    return {stage: _figures(found[stage]) for stage in stages}


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("processor_s", "wall_s", "peak_mib", "found") if key in record}


def command_of(stage: str, folder: Path) -> list[str]:
    """The command of a stage."""
    passrl, shaped = str(Path(sys.executable).with_name("passrl")), str(folder / "round-000" / "shaped")
    if stage == "train":
        return [sys.executable, __file__, "--train", "--out", shaped]
    if stage in ("score", "shape"):
        return [passrl, stage, str(folder / f"{stage}.toml"), "--out", str(folder)]
    if stage == "view":
        return [passrl, stage, shaped, "--out", str(folder / "credit.html")]
    return [passrl, stage, shaped if stage in ("lint", "inspect") else str(folder)]


def run(command: list[str], *, may_find: bool = False) -> dict[str, Any]:
    """Run a command in a process of its own; what it and its children took, and the end of what it found."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 3_000))
        said = output.read().decode(errors="replace")
    if process.returncode != 0 and not (may_find and process.returncode == 1):
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}:\n{said}")
    return {
        "processor_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.perf_counter() - started, 2),
        "peak_mib": round(used.ru_maxrss / 1024),
        **({"found": said} if process.returncode == 1 else {}),
    }


def read_as_trainer(url: str) -> None:
    """Everything that training does with data: index, filters, order, each step's batch."""
    from trainer.batching import build_step
    from trainer.data import ShapedData, build_index, select
    from trainer.options import TrainOptions
    from trainer.order import all_steps
    from trainer.stream import stream_steps

    data, options = ShapedData((shards.open_dataset(url),)), TrainOptions()
    index = build_index(data, threads=options.decode_threads)
    selection = select(index, options, context=2**31)
    steps = all_steps(selection.units, options)
    for members in stream_steps(data, index, steps, reference=False, threads=2, ahead=options.prefetch_steps):
        build_step(
            members, masked=[False] * len(members), aggregation="rollout_mean", constant=None, budget=8_192, pack=True,
            vocabulary_size=VOCABULARY,
        )  # fmt: skip


# -- the inputs ----------------------------------------------------------------------------------------------------


def write_inputs(folder: Path, size: Size) -> None:
    """Rollouts, signals and the configuration; parts that are there are kept."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": size.tokens}
    sampling |= {"group_size": size.group, "logprobs_mode": "raw_logprobs"}  # type: ignore[dict-item]
    carried = {
        "sampling": sampling, "tokenizer_digest": DIGEST, "policy_digest": DIGEST, "round": 0,
        "vocabulary": {"size": VOCABULARY, "eos": [0], "padding": 0},
    }  # fmt: skip
    spec = shards.DatasetSpec(stage="generate", stage_version=1, options={}, parts=size.parts, carried=carried)
    rollouts = write_dataset(folder / "round-000" / "rollouts", spec, lambda part: rollout_table(size, part))
    further = [f"extra{number:02d}" for number in range(size.signals)]
    for name, kind in {"process": "process_steps", "outcome": "outcome", **dict.fromkeys(further, "outcome")}.items():
        url = folder / "round-000" / "signals" / name
        spec = shards.DatasetSpec(
            stage="score", stage_version=1, options={"kind": kind}, parts=size.parts,
            inputs={"rollouts": rollouts.ref(str(url))},
        )  # fmt: skip
        write_dataset(url, spec, partial(signal_table, size, kind=kind, name=name))
    streams = "".join(f'[shape.streams.{name}]\nsignal = "{name}"\n' for name in ("process", "outcome", *further))
    (folder / "score.toml").write_text(CONFIG + SCORE)
    (folder / "shape.toml").write_text(f"{CONFIG}[shape]\n{streams if further else ROLES}")


def write_dataset(folder: Path, spec: shards.DatasetSpec, part_of: Callable[[int], pa.Table]) -> shards.CompleteDataset:
    """Commit what is missing of a dataset, and finalize it."""
    dataset = shards.create_dataset(str(folder), spec)
    for part in shards.pending_parts(dataset).todo:
        shards.commit_part(dataset, part, part_of(part))
    shards.finalize(dataset)
    return shards.open_dataset(str(folder))


def rollout_ids(size: Size, part: int) -> list[str]:
    """`GROUP/SAMPLE` of each rollout of a part."""
    return [f"{part}-{group}/{sample}" for group in range(size.groups) for sample in range(size.group)]


def rollout_table(size: Size, part: int) -> pa.Table:
    """A part of random rollouts, all of one length."""
    rng, ids = np.random.default_rng(part), rollout_ids(size, part)
    rows, tokens = len(ids), len(ids) * size.tokens
    prompts = np.repeat(rng.integers(1, VOCABULARY, (size.groups, PROMPT)), size.group, axis=0)
    columns: dict[str, Any] = {
        "group_id": [name.split("/")[0] for name in ids],
        "sample_index": np.tile(np.arange(size.group, dtype=np.int32), size.groups),
        "rollout_id": ids,
        "prompt_token_ids": lists(PROMPT, prompts.ravel().astype(np.int32)),
        "token_ids": lists(size.tokens, rng.integers(1, VOCABULARY, tokens).astype(np.int32)),
        "text": ["0a" * size.tokens] * rows,
        "behavior_logprobs": lists(size.tokens, -rng.exponential(0.3, tokens).astype(np.float32)),
        "loss_mask": lists(size.tokens, np.ones(tokens, np.bool_)),
        "finish_reason": ["stop"] * rows,
        "seed": np.arange(rows),
        "answer": ["42"] * rows,
    }
    return pa.table(columns)


def signal_table(size: Size, part: int, *, kind: str, name: str) -> pa.Table:
    """A part of a signal: a random score for each step, or a reward."""
    ids, rng = rollout_ids(size, part), np.random.default_rng([part, *name.encode()])
    rows = len(ids)
    table = {"rollout_id": ids, "status": ["ok"] * rows, "detail": pa.nulls(rows, pa.string())}
    if kind == "outcome":
        rewards = rng.integers(0, 2, rows)
        return pa.table({
            **table, "outcome_reward": rewards.astype(np.float32),
            "verify_status": np.where(rewards > 0, "ok", "wrong"), "extracted_answer": pa.nulls(rows, pa.string()),
        })  # fmt: skip
    ends = np.append(np.arange(STEP, size.tokens, STEP), size.tokens).astype(np.int32)
    scores = rng.random(rows * len(ends)).astype(np.float32)
    return pa.table({
        **table, "process_scores": lists(len(ends), scores), "process_ends": lists(len(ends), np.tile(ends, rows))
    })  # fmt: skip


def lists(length: int, values: np.ndarray) -> pa.ListArray:
    """Lists of `length` values each."""
    starts = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(starts, pa.array(values))


if __name__ == "__main__":
    main()
