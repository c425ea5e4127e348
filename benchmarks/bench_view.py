"""How large a file of `passrl view` is, and how soon it can be used, in this machine's Chromium.

    python benchmarks/bench_view.py [--rollouts 1000] [--tokens 500] [--repeats 5]

Rollouts of a vocabulary of 32,000 words drawn as words are (Zipf), in groups of 8, with the sampler's and a reference's
log-probabilities (noise: the worst case for compression), and a process score for each of 20 steps; one further
setting. One JSON object a line; times are the median of the repeats, each in a page of its own, from the start of
loading to the frame in which the rows, or the first rollouts' tokens, are painted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import ShapingConfig, shape
from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize
from pipelines.models.folder import tokenizer_digest
from pipelines.view.options import ViewOptions
from pipelines.view.view import make_view

GROUP, STEPS, VOCABULARY = 8, 20, 32_000
GOALS = {"file": 10.0, "list": 2.0, "group": 2.0}
# Two frames on: what was drawn by then has been painted.
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
CSS_OF = {"list": ".groups tbody tr", "group": ".rollout .t"}


def write_tokenizer(folder: Path) -> str:
    """A byte-level tokenizer of made-up words; its digest."""
    draw = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ("Ġ" + "".join(draw.choice(letters, draw.integers(1, 9))) for _ in range(4 * VOCABULARY))
    vocabulary = {word: number for number, word in enumerate(list(dict.fromkeys(words))[:VOCABULARY])}
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    made = {"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    return tokenizer_digest(str(folder))


def write_dataset(folder: Path, *, rollouts: int, tokens: int, digest: str) -> str:
    """A shaped dataset of one part; its URL."""
    draw = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, VOCABULARY + 1)
    ids = draw.choice(VOCABULARY, size=(rollouts, tokens), p=shares / shares.sum())
    logprobs = -draw.exponential(0.5, size=(2, rollouts, tokens)).astype(np.float32)
    ends = [(np.arange(1, STEPS + 1) * tokens // STEPS).tolist() for _ in range(rollouts)]
    right = draw.integers(0, 2, rollouts)
    table = pa.table(
        {
            "group_id": [f"question-{row // GROUP}" for row in range(rollouts)],
            "sample_index": pa.array([row % GROUP for row in range(rollouts)], pa.int32()),
            "rollout_id": [f"question-{row // GROUP}/{row % GROUP}" for row in range(rollouts)],
            "prompt_token_ids": lists(ids[:, :40], pa.int32()),
            "token_ids": lists(ids, pa.int32()),
            "text": ["" for _ in range(rollouts)],
            "behavior_logprobs": lists(logprobs[0], pa.float32()),
            "reference_logprobs": lists(logprobs[1], pa.float32()),
            "loss_mask": lists(np.ones_like(ids, bool), pa.bool_()),
            "finish_reason": ["stop"] * rollouts,
            "seed": pa.array([1] * rollouts, pa.int64()),
            "answer": ["42"] * rollouts,
            "policy_digest": ["p"] * rollouts,
            "round": pa.array([0] * rollouts, pa.int32()),
            "process_scores": pa.array([draw.random(len(one)).tolist() for one in ends], pa.list_(pa.float32())),
            "process_ends": pa.array(ends, pa.list_(pa.int32())),
            "outcome_reward": pa.array(right, pa.float32()),
            "verify_status": ["ok" if one else "wrong" for one in right],
            "format_reward": pa.array(np.ones(rollouts), pa.float32()),
            "format_ok": [True] * rollouts,
        }
    )
    config = ShapingConfig(signal="prm")
    signals: dict[str, Any] = {
        "process": "steps",
        "outcome": "verifier",
        "format": "format",
        "reference": None,
        "logprobs": [],
    }
    spec = DatasetSpec(
        stage="shape", stage_version=1, options=config.plain(), parts=1, seed=1,
        carried={"signals": signals, "round": 0, "policy_digest": "p", "tokenizer_digest": digest, "vocabulary": "v"},
    )  # fmt: skip
    dataset = create_dataset(str(folder), spec)
    commit_part(dataset, 0, shape(table, config))
    finalize(dataset)
    return str(folder)


def lists(values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A row of the matrix a row of the table."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind))


def measure(file: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds until the list, and until a group that a link names, can be used."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"list": [], "group": []}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for view, fragment in [("list", "#/groups"), ("group", "#/group/7")] * repeats:
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(file.as_uri() + fragment, wait_until="commit")
            page.wait_for_selector(CSS_OF[view])
            found[view].append(page.evaluate(PAINTED) / 1000)
            page.close()
        browser.close()
    return found


def main() -> None:
    """Make the file, print its size and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rollouts", 1000), ("tokens", 500), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        digest = write_tokenizer(Path(folder) / "tokenizer")
        url = write_dataset(Path(folder) / "shaped", rollouts=asked.rollouts, tokens=asked.tokens, digest=digest)
        started = time.process_time()
        view = make_view([url], options=ViewOptions(tokenizer=f"{folder}/tokenizer"), grid={"k": [0.0]})
        sizes = {"rollouts": asked.rollouts, "tokens": asked.tokens}
        say("written in", time.process_time() - started, "s of processor time", sizes)
        say("file", len(view.content) / 1e6, "MB", sizes | {"goal": GOALS["file"]})
        file = Path(folder) / "credit.html"
        file.write_bytes(view.content)
        for name, times in measure(file, asked.repeats).items():
            say(name, statistics.median(times), "s", sizes | {"goal": GOALS[name], "slowest": round(max(times), 3)})


def say(metric: str, value: float, unit: str, more: dict[str, float]) -> None:
    """One line of JSON."""
    print(json.dumps({"metric": metric, "value": round(value, 3), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    main()
