"""Groups as the oracle takes them (dicts) turned into what `shape` takes, and both results compared."""

from __future__ import annotations

import pyarrow as pa
from oracle import Options, Shaped, shape_group

import pass_ops

COLUMNS = {
    "mask": ("loss_mask", pa.list_(pa.bool_())),
    "scores": ("process_scores", pa.list_(pa.float32())),
    "ends": ("process_ends", pa.list_(pa.int32())),
    "outcome": ("outcome_reward", pa.float32()),
    "format": ("format_reward", pa.float32()),
    "ok": ("format_ok", pa.bool_()),
}


def to_table(groups: list[list[dict]]) -> pa.Table:
    """One row a rollout. A column is there when the first rollout has its key, and in an empty table."""
    rows = [r for group in groups for r in group]
    columns = {
        "rollout_id": pa.array([f"g{g}/{i}" for g, group in enumerate(groups) for i in range(len(group))], pa.string()),
        "group_id": pa.array([f"g{g}" for g, group in enumerate(groups) for _ in group], pa.string()),
    }
    for key, (name, kind) in COLUMNS.items():
        if not rows or key in rows[0]:
            columns[name] = pa.array([r[key] for r in rows], kind)
    return pa.table(columns)


def to_config(options: Options) -> pass_ops.ShapingConfig:
    process, outcome, format_ = options.standardize
    together = process == outcome == format_
    standardize = process if together else pass_ops.Standardizers(process=process, outcome=outcome, format=format_)
    w_prc, w_out, w_fmt = options.weights
    return pass_ops.ShapingConfig(
        estimator=options.estimator,
        signal=options.signal,
        standardize=standardize,
        weights=pass_ops.Weights(process=w_prc, outcome=w_out, format=w_fmt),
        k=options.k,
        eta=options.eta,
        chunk=options.chunk,
        std_ddof=options.ddof,
        std_eps=options.eps,
    )


def check_against_oracle(groups: list[list[dict]], options: Options, shaped: pa.Table) -> int:
    """Compare every rollout; returns how many groups could not be compared because the result hangs on a last bit."""
    rows = iter(
        shaped.select(["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]).to_pylist()
    )
    skipped = 0
    for group in groups:
        options.fragile.clear()
        expected = shape_group(group, options)
        found = [next(rows) for _ in group]
        if options.fragile:
            skipped += 1
            continue
        for r, want, got in zip(group, expected, found, strict=True):
            try:
                _check_rollout(want, got, merge=options.estimator in ("grpo_process", "prime"))
            except AssertionError as error:
                raise AssertionError(f"{options}\n{group}\n{r}\nexpected {want}\nfound {got}") from error
    return skipped


def _check_rollout(want: Shaped, got: dict, *, merge: bool) -> None:
    assert got["trainable"] is want.trainable
    if merge:  # equal neighbours are one chunk, and which are equal can hang on the last bit: compare token by token
        for name, values in (("chunk_credits", want.credits), ("chunk_advantages", want.advantages)):
            _check_close(_spread(want.ends, values), _spread(got["chunk_ends"], got[name]), want.size)
        exact = _spread(want.ends, want.credits)
        for end in set(want.ends) ^ set(got["chunk_ends"]):
            assert abs(exact[end] - exact[end - 1]) <= 1e-13 * want.size
    else:
        assert got["chunk_ends"] == want.ends
        _check_close(want.credits, got["chunk_credits"], want.size)
        _check_close(want.advantages, got["chunk_advantages"], want.size)
    assert (got["path_score"] is None) == (want.path is None)
    if want.path is not None:
        _check_close([want.path], [got["path_score"]], want.size)


def _spread(ends: list[int], values: list[float]) -> list[float]:
    return [v for start, end, v in zip([0, *ends], ends, values, strict=False) for _ in range(start, end)]


def _check_close(want: list[float], got: list[float], size: float) -> None:
    assert len(want) == len(got)
    for x, y in zip(want, got, strict=True):
        assert abs(x - y) <= 1e-7 * abs(x) + 1e-13 * size + 1e-45, (x, y)


MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]


def made(table: pa.Table, **options) -> pa.Table:
    """The columns that `shape` adds."""
    return pass_ops.shape(table, pass_ops.ShapingConfig(**options)).select(MADE)


def credits_table(*rollouts: list[float]) -> pa.Table:
    """One group whose rollouts have these process scores, one token a step."""
    return to_table([[{"mask": [True] * len(c), "scores": c, "ends": list(range(1, len(c) + 1))} for c in rollouts]])
