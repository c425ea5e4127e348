"""`shape` beside what others would run on the same rollouts: a padded torch PASS, and verl's GRPO estimator.

They run in an environment of their own, made on first use in .cache/peers by uv from the package index (a minute),
and get the rollouts as an Arrow file. Their results are compared with ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pass_ops import ShapingConfig, Weights, shape, token_advantages

ROOT = Path(__file__).parents[2]
SIDE = Path(__file__).with_name("side.py")
ENVIRONMENT = ROOT / ".cache" / "peers"
REQUIREMENTS = ["torch==2.13.0", "verl==0.9.1", "numpy", "pyarrow"]
OVERRIDES = ["torch==2.13.0", *(f"{name} ; sys_platform == 'never'" for name in ("torchvision", "torchaudio"))]
REPEATS = 5
TOLERANCE = 1e-3  # the padded one works in float32
GRPO = ShapingConfig(estimator="grpo_outcome", weights=Weights(format=0.0))


Times = Callable[..., list[float]]  # functions -> the shortest time of each


def lines(
    tokens: int, threads: list[int], make_table: Callable[[str, int], tuple[pa.Table, ShapingConfig]], times: Times
) -> Iterator[dict]:
    """Two lines for each case and number of threads."""
    python = environment()
    for case in ("kl_random", "kl_runs", "prm"):
        table, config = make_table(case, tokens)
        for n in threads:
            yield from beside("pass", python, table, config, threads=n, times=times, metric=f"padded_torch_{case}")
    table, _ = make_table("prm", tokens)
    for n in threads:
        yield from beside("verl", python, table, GRPO, threads=n, times=times, metric="verl_grpo")


def beside(
    kind: str, python: Path, table: pa.Table, config: ShapingConfig, *, threads: int, times: Times, metric: str
) -> Iterator[dict]:
    """Ours, theirs, ours: `shape` alone, and spread over tokens, which is what theirs gives."""
    ours = partial(shape, table, config, threads=threads)
    before = times(ours, lambda: token_advantages(ours()))
    seconds, found = theirs(kind, python, table, threads)
    after = times(ours, lambda: token_advantages(ours()))
    expected = token_advantages(ours()).values.to_numpy()
    apart = float((np.abs(found - expected) / (1.0 + np.abs(expected))).max())
    if apart > TOLERANCE:
        raise SystemExit(f"{metric}: the results differ by {apart}, more than {TOLERANCE}")
    for name, first, second in zip(("shape", "shape_and_spread"), before, after, strict=True):
        yield {
            "metric": f"{name}_beside_{metric}",
            "value": round(seconds / min(first, second), 1),
            "unit": "times faster",
            "against": f"{seconds * 1e3:.1f} ms, results within {apart:.0e}",
            "ratio": round(min(first, second) / seconds, 4),
            "milliseconds": round(min(first, second) * 1e3, 2),
            "tokens": len(expected),
            "threads": threads,
        }


def theirs(kind: str, python: Path, table: pa.Table, threads: int) -> tuple[float, np.ndarray]:
    """(seconds, flat advantages) of the other side."""
    with tempfile.TemporaryDirectory() as folder:
        with pa.ipc.new_file(f"{folder}/input.arrow", table.schema) as file:
            file.write_table(table.combine_chunks())
        command = [str(python), str(SIDE), kind, folder, str(threads), str(REPEATS)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr[-2000:]}")
        return float(run.stdout.split()[-1]), np.load(f"{folder}/advantages.npy")


def environment() -> Path:
    """The Python of the environment, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.write("\n".join(OVERRIDES))
        overrides.flush()
        command = [*uv, "pip", "install", "--quiet", "--python", str(python), "--override", overrides.name]
        subprocess.run([*command, *REQUIREMENTS], check=True)
    stamp.write_text(wanted)
    return python
