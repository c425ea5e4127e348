"""`passrl shape` over a billion tokens: time, memory, bytes a token, and how fast a column is read back.

    passrl run real.toml --out runs/real          # some real rollouts with their signals
    python benchmarks/billion.py runs/real/round-000 --out runs/billion --process equations --outcome outcome
    python benchmarks/billion.py runs/real/round-000 --out runs/billion --process opd --reference start
    python benchmarks/billion.py runs/real/round-000 --out runs/billion --streams execution:dataset prm outcome

With --streams every signal is a stream of its own (NAME=SIGNAL:POOL gives the stream another name, and a pool).

The real round's groups are dealt out again and again under new ids, in a new order for every part, until there are
--tokens, and committed through `pass_ops.shards` as the stages do. Then the command runs over it in a process of its
own. Sizes are also told of the real rollouts dealt out once, where no compressor can see a repetition. One JSON object
a line; --clean removes the datasets at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pass_ops import Stream, Weights, shape
from pass_ops.reading.groups import group_bounds
from pass_ops.shards import (
    CompleteDataset,
    Dataset,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    pending_parts,
)
from pass_ops.shards.checks import check_part
from pass_ops.shards.fingerprint import sha256_bytes
from pass_ops.shards.schemas import conform
from pass_ops.shards.tables import group_keys, part_bytes
from pipelines.shaped.stage import ShapeOptions, join_signals
from pipelines.shaped.streams import statistics_of

CONFIG = '[prompts]\nsource = "none.jsonl"\n[policy]\nmodel = "none"\n[shape]\n'


@dataclass(frozen=True)
class Plan:
    """Part p holds the real round's groups `tiles` times, each time in another order and under other ids."""

    real: Path
    out: Path
    parts: int
    tiles: int

    def url(self, name: str) -> str:
        return str(self.out / "round-000" / ("rollouts" if name == "rollouts" else f"signals/{name}"))

    def shaped(self, name: str) -> CompleteDataset:
        return open_dataset(str(self.out / "round-000" / name))

    def source(self, name: str) -> CompleteDataset:
        return open_dataset(str(self.real / ("rollouts" if name == "rollouts" else f"signals/{name}")))


def main() -> None:
    args = arguments()
    options = shape_options(args)
    tokens = total_tokens(open_dataset(str(args.round / "rollouts")))
    tiles = max(1, round(args.tokens_per_part / tokens))
    once = Plan(args.round, args.out / "once", parts=1, tiles=1)
    plan = Plan(args.round, args.out, parts=max(1, round(args.tokens / tokens / tiles)), tiles=tiles)
    say(metric="real rollouts", value=tokens, unit="tokens", parts=plan.parts, tokens_a_part=tokens * tiles)
    for dealt in (once, plan):
        write_inputs(dealt, options)
    if args.inputs_only:
        return
    for dealt in (once, plan):
        run_command(dealt, options, args.name)
        for name in ("rollouts", *options.roles):
            report_bytes(open_dataset(dealt.url(name)), dealt, name)
        report_bytes(dealt.shaped(args.name), dealt, "shaped")
    report_work(plan, options, plan.shaped(args.name))
    report_reading(plan.shaped(args.name))
    if args.clean:
        shutil.rmtree(args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("round", type=Path, help="a real round: rollouts and signals")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=1e9)
    parser.add_argument("--tokens-per-part", type=float, default=4e6)
    for role in ("process", "outcome", "format", "reference"):
        parser.add_argument(f"--{role}", help=f"the {role} signal's name")
    parser.add_argument("--streams", nargs="+", default=[], metavar="[NAME=]SIGNAL[:POOL]", help="streams instead")
    parser.add_argument("--name", default="shaped", help="the shaped dataset's folder")
    parser.add_argument("--inputs-only", action="store_true", help="stop before the command; a later call goes on")
    parser.add_argument("--clean", action="store_true", help="remove --out at the end")
    return parser.parse_args()


def shape_options(args: argparse.Namespace) -> ShapeOptions:
    if args.streams:
        return ShapeOptions(streams=dict(map(stream_of, args.streams)))
    kind = open_dataset(str(args.round / "signals" / args.process)).spec.options["kind"]
    weights = Weights(outcome=float(bool(args.outcome)), format=float(bool(args.format)))
    signal = "prm" if kind == "process_steps" else "kl"
    roles = {role: getattr(args, role) for role in ("process", "outcome", "format", "reference")}
    return ShapeOptions(signal=signal, weights=weights, **roles)  # type: ignore[arg-type]


def stream_of(written: str) -> tuple[str, Stream]:
    """A stream's name and the stream, of [NAME=]SIGNAL[:POOL]."""
    source, _, pool = written.partition(":")
    name, _, signal = source.rpartition("=")
    return name or signal, Stream(signal=signal, pool=pool or "group")  # type: ignore[arg-type]


def say(**record: Any) -> None:
    print(json.dumps({"against": None, "ratio": None, **record}), flush=True)


# -- the inputs ----------------------------------------------------------------------------------------------------


def write_inputs(plan: Plan, options: ShapeOptions) -> None:
    """Commit every part of the rollouts and of the signals that are named; what is there already is kept."""
    for name in ("rollouts", *options.roles):
        started = time.perf_counter()
        source = plan.source(name)
        inputs = {} if name == "rollouts" else {"rollouts": open_dataset(plan.url("rollouts")).ref(plan.url(name))}
        dataset = create_dataset(plan.url(name), replace(source.spec, parts=plan.parts, inputs=inputs))
        whole = pa.concat_tables([source.read_part(part) for part in range(len(source.parts))]).combine_chunks()

        def commit(part: int, whole: pa.Table = whole, dataset: Dataset = dataset) -> None:
            commit_part(dataset, part, tiled(whole, plan, part))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(commit, pending_parts(dataset).todo))
        finalize(dataset)
        say(metric=f"written: {name}", value=round(time.perf_counter() - started, 1), unit="s")


def tiled(whole: pa.Table, plan: Plan, part: int) -> pa.Table:
    """One part. The order depends on the part alone, so that signals stay row for row beside their rollouts."""
    bounds_G1 = group_bounds(group_keys(whole))
    rng = np.random.default_rng(part)
    pieces = []
    for tile in range(plan.tiles):
        order_G = rng.permutation(len(bounds_G1) - 1)
        rows_R = np.concatenate([np.arange(bounds_G1[g], bounds_G1[g + 1]) for g in order_G])
        pieces.append(renamed(whole.take(pa.array(rows_R)), f"{part}-{tile}"))
    return pa.concat_tables(pieces)


def renamed(table: pa.Table, suffix: str) -> pa.Table:
    """The table with "-suffix" behind every group's id."""
    groups = pc.binary_join_element_wise(group_keys(table), suffix, "-")
    samples = pc.list_element(pc.split_pattern(table["rollout_id"], "/", max_splits=1, reverse=True), 1)
    made = {"group_id": groups, "rollout_id": pc.binary_join_element_wise(groups, samples, "/")}
    for name in made.keys() & set(table.column_names):
        table = table.set_column(table.schema.get_field_index(name), name, made[name])
    return table


# -- the command ---------------------------------------------------------------------------------------------------


def run_command(plan: Plan, options: ShapeOptions, name: str) -> None:
    """`passrl shape` in a process of its own: wall and processor time, and the most memory it held."""
    config = plan.out / f"{name}.toml"
    config.write_text(CONFIG + "\n".join(config_lines(options)) + "\n")
    command = [
        str(Path(sys.executable).with_name("passrl")),
        "shape",
        str(config),
        "--out",
        str(plan.out),
        "--name",
        name,
    ]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tokens = total_tokens(open_dataset(plan.url("rollouts")))
    sizes = {"tokens": tokens, "parts": plan.parts}
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say(metric="passrl shape", value=round(seconds, 1), unit="s", processor_s=round(processor, 1), **sizes)
    say(metric="passrl shape, peak resident memory", value=round(after.ru_maxrss / 2**20, 2), unit="GiB", **sizes)


def config_lines(options: ShapeOptions) -> list[str]:
    """The options under [shape]."""
    if options.streams is not None:
        return [
            f'[shape.streams.{name}]\nsignal = "{stream.signal}"\npool = "{stream.pool}"'
            for name, stream in options.streams.items()
        ]
    roles = [f'{role} = "{signal}"' for signal, role in options.roles.items()]
    weights = ", ".join(f"{stream} = {getattr(options.weights, stream)}" for stream in ("process", "outcome", "format"))
    return [*roles, f'signal = "{options.signal}"', f"weights = {{ {weights} }}"]


# -- what the shards are -------------------------------------------------------------------------------------------


def total_tokens(dataset: CompleteDataset) -> int:
    return sum(part.tokens for part in dataset.parts)


def report_bytes(dataset: CompleteDataset, plan: Plan, name: str) -> None:
    """Bytes a token of the files, and of every column in them."""
    tokens = total_tokens(open_dataset(plan.url("rollouts")))
    columns: Counter[str] = Counter()
    for part in range(len(dataset.parts)):
        with dataset.open_part(part) as file:
            for group in range(file.metadata.num_row_groups):
                for leaf in range(file.metadata.num_columns):
                    chunk = file.metadata.row_group(group).column(leaf)
                    columns[chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
    size = sum(part.bytes for part in dataset.parts)
    listed = {column: round(count / tokens, 3) for column, count in columns.most_common() if count / tokens >= 0.0005}
    say(
        metric=f"size: {name}",
        value=round(size / tokens, 2),
        unit="bytes/token",
        bytes=size,
        tokens=tokens,
        columns=listed,
    )


def report_work(plan: Plan, options: ShapeOptions, shaped: CompleteDataset, parts: int = 8) -> None:
    """One part after the other through what the shape stage does to each: processor time a token of every step.

    "splice" encodes the columns that are new and copies the others as their files hold them.
    """
    spent: Counter[str] = Counter()
    tokens = 0
    sources = {name: open_dataset(plan.url(name)) for name in ("rollouts", *options.roles)}
    beside = partial(join_signals, reference=options.reference, prefixed=options.stream_signals)
    statistics = statistics_of(shaped.spec, options.config) if options.streams is not None else None
    for part in range(min(parts + 1, len(shaped.parts))):
        if part == 1:
            spent.clear()  # the first one loads what is compiled
        stored = timed(spent, "read, hash and decode", lambda p=part: {n: d.read_stored(p) for n, d in sources.items()})
        tables = {name: one.table for name, one in stored.items()}
        rollouts = tables.pop("rollouts")
        joined = timed(spent, "join", lambda r=rollouts, t=tables: beside(r, t))
        made = timed(spent, "shape", lambda t=joined: shape(t, options.config, statistics=statistics))
        for name in ("policy_digest", "round"):
            value = pa.scalar(shaped.spec.carried[name], pa.int32() if name == "round" else pa.string())
            made = made.append_column(name, pa.repeat(value, len(made)))
        made = timed(spent, "check", lambda t=made: checked(t))
        content = timed(spent, "splice", lambda t=made, s=stored: part_bytes(t, "shape", stored=tuple(s.values())))
        timed(spent, "digest", lambda c=content: sha256_bytes(c))
        tokens += shaped.parts[part].tokens if part else 0
    for step, seconds in spent.items():
        say(
            metric=f"part by part: {step}",
            value=round(1e9 * seconds / max(tokens, 1), 2),
            unit="processor ns/token",
            tokens=tokens,
        )


def checked(table: pa.Table) -> pa.Table:
    """The table as it is committed."""
    table = conform(table, "shape")
    check_part(table, "shape", where="here")
    return table


def timed(spent: Counter[str], step: str, work: Callable[..., Any]) -> Any:
    started = time.process_time()
    result = work()
    spent[step] += time.process_time() - started  # type: ignore[assignment]
    return result


def report_reading(shaped: CompleteDataset, repeats: int = 7) -> None:
    """Reading one column of a part through the dataset, against pyarrow reading it from the same file, by turns.

    Shortest processor time of all threads together, so that a busy machine does not decide.
    """
    path = f"{shaped.url}/{shaped.parts[0].data}"
    for column in ("token_ids", "behavior_logprobs", "chunk_advantages", "loss_mask"):
        ours: list[float] = []
        raw: list[float] = []
        for _ in range(repeats):
            for seconds, read in (
                (ours, lambda c=column: shaped.read_part(0, [c])),
                (raw, lambda c=column: pq.read_table(path, columns=[c])),
            ):
                started = time.process_time()
                read()
                seconds.append(time.process_time() - started)
        speed = shaped.parts[0].tokens / min(ours)
        say(
            metric=f"reading {column}", value=round(speed / 1e6, 1), unit="million tokens/processor s",
            against="pyarrow", ratio=round(min(raw) / min(ours), 2),
        )  # fmt: skip


if __name__ == "__main__":
    main()
