"""How fast foreign rollouts are imported: rows a second of processor time, and peak memory, by format and kind of file.

    python benchmarks/bench_import.py [--rows 100000]

Short rollouts: groups of 8, completions of 60 words or 100 tokens. Each case runs in a process of its own; its seconds
are those of the processor, so that other processes beside it do not count, less those of an import of 8 rows: what
starting Python, Beam and the libraries costs is no cost of a row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP, WORDS, TOKENS = 8, 60, 100
GOAL = {".parquet": 50_000, ".jsonl": 10_000}
VOCABULARY = ("the", "a", "so", "we", "have", "x", "y", "then", "12", "37", "+", "=", "answer", "is", "step", "19")


def trl(rows: int) -> Iterator[dict[str, Any]]:
    """TRL's completions."""
    draw = random.Random(0)
    for row in range(rows):
        yield {
            "step": 1, "prompt": f"What is {row // GROUP} + 1?", "completion": _words(draw), "right": float(row % 2),
            "advantage": 0.1,
        }  # fmt: skip


def verl(rows: int) -> Iterator[dict[str, Any]]:
    """Verl's dumps."""
    draw = random.Random(0)
    for row in range(rows):
        question = f"What is {row // GROUP} + 1?"
        yield {"input": question, "output": _words(draw), "gts": "7", "score": float(row % 2), "step": 1}


def lm_eval(rows: int) -> Iterator[dict[str, Any]]:
    """lm-eval's samples, one answer a document and filter."""
    draw = random.Random(0)
    for row in range(rows):
        arguments = {"gen_args_0": {"arg_0": f"What is {row} + 1?", "arg_1": {"temperature": 1.0}}}
        yield {
            "doc_id": row, "doc": {"question": f"What is {row} + 1?"}, "target": "7", "arguments": arguments,
            "resps": [[_words(draw)]], "filtered_resps": ["7"], "filter": "none", "metrics": ["exact_match"],
            "doc_hash": "0" * 64, "exact_match": float(row % 2),
        }  # fmt: skip


def verifiers(rows: int) -> Iterator[dict[str, Any]]:
    """Verifiers' traces of one turn, with token ids."""
    draw = random.Random(0)
    for row in range(rows):
        asked = {
            "parent": None, "message": {"role": "user", "content": f"What is {row // GROUP} + 1?"}, "sampled": False,
            "token_ids": list(range(20)), "mask": [False] * 20, "logprobs": [],
        }  # fmt: skip
        said = {
            "parent": 0, "message": {"role": "assistant", "content": _words(draw)}, "sampled": True,
            "token_ids": [draw.randrange(50_000) for _ in range(TOKENS)], "mask": [True] * TOKENS,
            "logprobs": [round(-draw.random(), 4) for _ in range(TOKENS)],
        }  # fmt: skip
        trace = {
            "version": 1,
            "task": {"key": "k"},
            "nodes": [asked, said],
            "calls": [],
            "rewards": {"r": {"score": 1}},
        }
        yield {"id": str(row), "group": {"id": str(row // GROUP)}, "traces": [trace]}


def gym(rows: int) -> Iterator[dict[str, Any]]:
    """NeMo-Gym's rollouts, with token ids."""
    draw = random.Random(0)
    for row in range(rows):
        item = {
            "type": "message", "content": _words(draw), "prompt_token_ids": list(range(20)),
            "generation_token_ids": [draw.randrange(50_000) for _ in range(TOKENS)],
            "generation_log_probs": [-draw.random() for _ in range(TOKENS)],
        }  # fmt: skip
        yield {
            "responses_create_params": {"input": f"What is {row // GROUP} + 1?", "temperature": 1.0},
            "response": {"output": [item], "model": "m"}, "reward": float(row % 2), "_ng_task_index": row // GROUP,
        }  # fmt: skip


CASES = {
    ("trl", ".parquet"): trl,
    ("verl", ".jsonl"): verl,
    ("lm_eval", ".jsonl"): lm_eval,
    ("verifiers", ".jsonl"): verifiers,
    ("nemo_gym", ".jsonl"): gym,
}


def _words(draw: random.Random) -> str:
    return " ".join(draw.choices(VOCABULARY, k=WORDS))


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        first = pa.Table.from_pylist(list(islice(rows, 10_000)))
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            while more := list(islice(rows, 10_000)):
                writer.write_table(pa.Table.from_pylist(more, schema=first.schema))
        return
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def _import(form: str, path: str, out: str, sent: Any) -> None:
    """In a process of its own: processor seconds, wall seconds, MiB."""
    from pipelines.imports.run import ImportOptions, import_rollouts

    began = time.perf_counter()
    import_rollouts(path, out=out, options=ImportOptions(format=form))
    used = resource.getrusage(resource.RUSAGE_SELF)
    sent.send((used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024))


def _measured(form: str, path: Path, out: Path) -> tuple[float, float, float]:
    context = multiprocessing.get_context("spawn")
    received, sent = context.Pipe(duplex=False)
    process = context.Process(target=_import, args=(form, str(path), str(out), sent))
    process.start()
    sent.close()
    found: tuple[float, float, float] = received.recv()
    process.join()
    return found


def main() -> None:
    """One JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each file (default 100000)")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for (form, suffix), make in CASES.items():
            small, large = folder / f"small_{form}{suffix}", folder / f"{form}{suffix}"
            _write(small, make(GROUP))
            _write(large, make(rows))
            start, _, base = _measured(form, small, folder / f"run-small-{form}")
            used, wall, peak = _measured(form, large, folder / f"run-{form}")
            sizes = {"rows": rows, "bytes": large.stat().st_size, "wall_seconds": round(wall, 2)}
            rate = (rows - GROUP) / max(used - start, 1e-9)
            speed = {"metric": f"import.{form}{suffix}", "value": round(rate), "unit": "rows per processor second"}
            print(json.dumps(speed | {"against": GOAL[suffix], "ratio": round(rate / GOAL[suffix], 2)} | sizes))
            memory = {"metric": f"import.{form}{suffix}.peak", "value": round(peak), "unit": "MiB"}
            print(json.dumps(memory | {"against": round(base), "ratio": round(peak / base, 2)} | sizes), flush=True)


if __name__ == "__main__":
    main()
