"""Is there room for what a run will write?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pass_ops.shards.store import Store
from pipelines.models.folder import tensor_shapes
from pipelines.prompts.stage import PromptRow
from pipelines.runs.cost import checkpoint_bytes, estimate_evaluation, estimate_round
from pipelines.runs.run import Run


def disk_problem(
    run: Run,
    rows: Sequence[PromptRow],
    *,
    policy: str,
    rounds: int | None,
    benchmarks: Mapping[str, Sequence[PromptRow]],
) -> str | None:
    """What to say where the estimate is above what is free; None where it fits or the store has no such limit.

    What the run's folder holds already counts as written: a rerun goes on from there. rounds: None for one alone, which
    evaluates no starting policy. benchmarks: those that are evaluated on, with their prompts.
    """
    store = Store(run.url)
    if not store.is_local:
        return None
    folder = Path(store.path())
    count = rounds or 1
    estimate = estimate_round(run.config, rows, policy=policy)
    kept = checkpoint_bytes(list(tensor_shapes(policy).values()), run.config.train)
    wanted = count * estimate.disk_gigabytes * 1e9 - written(folder)
    if benchmarks:
        wanted += estimate_evaluation(run.config, benchmarks, rounds=rounds).gigabytes * 1e9
    wanted -= (count - 1) * kept / run.config.train.keep_checkpoints  # one round at a time writes one more
    if (keep := run.config.run.keep_states) is not None and keep < count:
        wanted -= (count - keep) * kept
    if (keep := run.config.run.keep_rollouts) is not None and keep < count:
        wanted -= (count - keep) * estimate.gigabytes * 1e9
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if wanted <= free:
        return None
    return (
        f"{run.url}: the run will write about {wanted / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free on that "
        "disk. Free some, lower train.keep_checkpoints, set run.keep_states or run.keep_rollouts, or add "
        '"disk_space" to run.accept'
    )


def written(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(os.path.getsize(os.path.join(base, name)) for base, _, names in os.walk(folder) for name in names)
