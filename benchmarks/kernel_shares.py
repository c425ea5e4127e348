"""What each compiled loop of pass_ops saves beside plain numpy, and what share of a shape stage that is.

    python benchmarks/kernel_shares.py [--tokens 500000] [--repeats 5] [--only NAME ...] > benchmarks/kernel_shares.json

Rollouts as in bench_shape.py. In every setting that runs a kernel, `shape` is timed with the kernel and with the numpy
of plain_operations.py and plain_streams.py in its place, in turns, in processor time of one thread, the shortest of the
repeats; both must give the same chunks. The rest of a stage is timed on the same rows: parts read, joined, checked,
written and digested, as benchmarks/billion.py does. `share` is how much longer the stage would take, as a share of
that; the setting with the largest share counts. docs/generate.py makes a table of the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from unittest import mock

import numba
import numpy as np
import plain_operations
import plain_streams
import pyarrow as pa
from around_shape import around
from bench_shape import make_table, shortest

import pass_ops
from pass_ops import ShapingConfig, Standardizers, Stream, Transform, shape

PLAIN = "plain_operations.py or plain_streams.py"
CASES = ("prm", "prm_mixed_mask", "kl_random", "kl_random_mixed_mask")
STATES = 32
MADE = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")


@dataclass(frozen=True)
class Setting:
    """Some rollouts and how they are shaped."""

    name: str
    case: str
    options: dict[str, Any]


def settings() -> list[Setting]:
    """Settings that run every kernel, each where its work is largest."""
    three = {name: Stream(signal=name) for name in ("process", "outcome", "format")}
    every = {**three, "token": Stream(signal="teacher")}  # steps and tokens in one sum
    process = {
        "PASS as streams": Stream(signal="process"),
        "streams, rank": Stream(signal="process", operator="rank"),
        "streams, return-to-go": Stream(signal="process", after=(Transform("return_to_go"),)),
        "streams, equal states": Stream(signal="process", pool="state", key="state"),
        "streams, equal states, leave one out": Stream(
            signal="process", operator="leave_one_out", pool="state", key="state"
        ),
    }
    shaped: dict[str, dict[str, Any]] = {
        "PASS": {},
        "PASS without CV": {"chunk": False},
        "reward shaping": {"estimator": "reward_shaping"},
        "grpo_process": {"estimator": "grpo_process"},
        "PASS, leave one out": {"standardize": Standardizers(process="leave_one_out")},
        **{name: {"streams": {**three, "process": one}, "chunk_by": ("process",)} for name, one in process.items()},
        "streams, steps and tokens": {"streams": every, "chunk_by": ("process",)},
        "streams, rewards alone": {"streams": {"outcome": three["outcome"]}},
    }
    return [Setting(name, case, options) for case in CASES for name, options in shaped.items()]


def with_more(table: pa.Table) -> pa.Table:
    """The table with `state`, equal for some steps of a group, and `teacher_logprobs`; without `format_ok`."""
    rng = np.random.default_rng(1)
    scores, mask = (table[name].combine_chunks() for name in ("process_scores", "loss_mask"))
    states = rng.integers(0, STATES, len(scores.values))
    logprobs = -rng.exponential(0.3, len(mask.values)).astype(np.float32)
    table = table.append_column("state", pa.ListArray.from_arrays(scores.offsets, pa.array(states)))
    table = table.append_column("teacher_logprobs", pa.ListArray.from_arrays(mask.offsets, pa.array(logprobs)))
    return table.drop_columns("format_ok")  # streams gate nothing here


@dataclass(frozen=True)
class Kernel:
    """A compiled loop and the numpy that may take its place."""

    module: ModuleType
    name: str

    @property
    def path(self) -> str:
        return f"{self.module.__name__.removeprefix('pass_ops.')}.{self.name.removeprefix('_')}"

    @property
    def home(self) -> ModuleType:
        """Where its numpy is."""
        of_streams = self.module.__name__.startswith(("pass_ops.streams", "pass_ops.reading"))
        home: ModuleType = plain_streams if of_streams else plain_operations
        return home

    @property
    def plain(self) -> Callable[..., Any]:
        """The numpy."""
        found: Callable[..., Any] = getattr(self.home, self.name.removeprefix("_"))
        return found

    def replaced(self, by: Callable[..., Any]) -> Any:
        return mock.patch.object(self.module, self.name, by)


def kernels() -> list[Kernel]:
    """Every function that `jit.kernel` compiled for a shape stage; those that `jit.part` inlines are parts of them."""
    found = []
    for item in pkgutil.walk_packages(pass_ops.__path__, "pass_ops."):
        if item.name in ("pass_ops.torch", "pass_ops.spread_rows"):  # no stage spreads: bench_stage.py has those loops
            continue
        module = importlib.import_module(item.name)
        for name, value in vars(module).items():
            if isinstance(value, numba.core.dispatcher.Dispatcher) and value.__module__ == item.name:
                found += [Kernel(module, name)] if value.targetoptions.get("inline") != "always" else []
    return found


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether both hold the same chunks, but for the order in which sums were made."""
    for name in MADE:
        a, b = (table[name].combine_chunks() for table in (one, other))
        lists = pa.types.is_list(a.type)
        if lists and not np.array_equal(a.offsets, b.offsets):
            return False
        x, y = (
            np.asarray(part.values if lists else part.cast(pa.float32()).fill_null(0.0), dtype=np.float64)
            for part in (a, b)
        )
        if not np.allclose(x, y, rtol=1e-5, atol=1e-5):
            return False
    return True


def called(kernel: Kernel, run: Callable[[], Any]) -> bool:
    """Whether the setting runs the kernel."""
    found: list[bool] = []
    compiled = getattr(kernel.module, kernel.name)

    def watched(*args: Any) -> Any:
        found.append(True)
        return compiled(*args)

    with kernel.replaced(watched):
        run()
    return bool(found)


def measured(
    kernel: Kernel, setting: Setting, run: Callable[[], pa.Table], *, tokens: int, rest: float, repeats: int
) -> dict[str, Any]:
    """One kernel in one setting. rest: seconds of the stage besides shaping."""

    def without() -> pa.Table:
        with kernel.replaced(kernel.plain):
            return run()

    if not same(run(), without()):
        raise SystemExit(f"{kernel.path} in {setting}: the numpy in its place gives other chunks; mend {kernel.plain}")
    compiled, plain = shortest(repeats, time.process_time, run, without)
    return {
        "kernel": kernel.path,
        "setting": f"{setting.name}, {setting.case}",
        "shape_ns": round(compiled / tokens * 1e9, 2),
        "without_ns": round(plain / tokens * 1e9, 2),
        "stage_ns": round((rest + compiled) / tokens * 1e9, 1),
        "share": round(max(plain - compiled, 0.0) / (rest + plain), 4),
    }


def shares(tokens: int, repeats: int, only: list[str]) -> Iterator[dict[str, Any]]:
    """Every kernel in every setting that runs it."""
    asked = [kernel for kernel in kernels() if not only or kernel.path in only]
    if missing := [kernel.path for kernel in asked if not hasattr(kernel.home, kernel.name.removeprefix("_"))]:
        raise SystemExit(f"no numpy for {', '.join(missing)}; write it in {PLAIN}, or leave it out with --only")
    tables = {case: make_table(case, tokens) for case in CASES}
    rest: dict[str, float] = {}
    for setting in settings():
        table, like = tables[setting.case]
        if "streams" in setting.options:
            table = with_more(table)
        options = setting.options if "streams" in setting.options else {"signal": like.signal, **setting.options}
        config = ShapingConfig(**options)
        run = partial(shape, table, config, threads=1)
        if setting.case not in rest:
            rest[setting.case] = around(tables[setting.case][0], shape(table, config).select(MADE), repeats)
        count = len(table["loss_mask"].combine_chunks().values)
        for kernel in asked:
            if called(kernel, run):
                yield measured(kernel, setting, run, tokens=count, rest=rest[setting.case], repeats=repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="kernels, such as fusion.fuse")
    args = parser.parse_args()
    largest: dict[str, dict[str, Any]] = {}
    for line in shares(args.tokens, args.repeats, args.only):
        print(json.dumps(line), file=sys.stderr, flush=True)
        if line["share"] >= largest.get(line["kernel"], {"share": -1.0})["share"]:
            largest[line["kernel"]] = line
    print(json.dumps(sorted(largest.values(), key=lambda line: -line["share"]), indent=2))


if __name__ == "__main__":
    main()
