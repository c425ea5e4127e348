"""What lint looks at: counts and moments of one dataset, gathered part by part in bounded memory.

Axes: rollouts of a part (R), groups (G), completion tokens (N).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import ShapingConfig, Statistics
from pass_ops.errors import EstimatorError, MissingColumnError, OptionError
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.reading.stream_sources import plan
from pass_ops.shards import CompleteDataset
from pass_ops.shards.tables import group_keys, read_columns
from pipelines.inspect.forecast import Forecast, forecast, given_levels, poor_level, score_levels
from pipelines.inspect.lint.carried import spread, squares
from pipelines.inspect.moments import Moments, Pairs, centred
from pipelines.inspect.sample import GroupSample
from pipelines.inspect.scored import PROCESS, scored_columns
from pipelines.inspect.stored import rightness, shaping_config, verify_column
from pipelines.shaped.streams import estimator_columns, statistics_of

_COLUMNS = (
    "group_id", "rollout_id", "behavior_logprobs", "loss_mask", "finish_reason", "status", "verify_status",
    "process_scores", "process_ends", "outcome_reward", "format_reward", "format_ok",
    "chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable",
)  # fmt: skip
#: columns of any name that shaping may read
_SHAPED_ENDINGS = ("_scores", "_ends", "_reward", "_ok")
_SHOWN = 3
_JOINED_BYTES = 1 << 20  # of parts that are looked at together: less costs calls, more costs memory
#: groups of which rollouts are padded
PADDED_GROUPS = 32
# A float32 log-softmax may come out a little above 0 where the probability is 1.
LOGPROB_ROUNDING = 1e-4


@dataclass
class Facts:
    """One dataset in numbers. A count or moment stays empty where the dataset has no such column.

    statistics: what its first pass recorded of pools of the whole dataset. examples: fact -> the first rollouts (or
    groups) it holds for. finish, verify, statuses: value -> rollouts, the last per signal. scored_groups: groups with
    two or more outcomes; constant_groups: of them, those with all equal. spread: stream -> its contribution to the
    fused advantage, over chunks. process_outcome: column of process scores -> their mean and the outcome reward within
    groups. pay: side -> length and first advantage within groups. gate: whether the format gate is open -> trainable
    rollouts and the sum of their squared advantages over the tokens that count. rewards: stream -> its column, of those
    with one value a rollout; binary: such a column -> whether it is 0 or 1 throughout. by_token: streams of a value a
    token alone cut chunks.
    counting: tokens that count; of them zero_logprobs, wrong_logprobs (above 0 or not finite) and uncertain_logprobs
    (not 0, beyond rounding). padding: what one added step would earn, of the score in question (quantile None) and of
    quantiles of the stored ones; padding_unknown: why that could not be asked.
    """

    config: ShapingConfig | None = None
    statistics: Statistics | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    round: int | None = None
    outcome_signal: str | None = None
    rollouts: int = 0
    groups: int = 0
    partial_groups: int = 0
    singletons: int = 0
    scored_groups: int = 0
    constant_groups: int = 0
    finish: Counter[str] = field(default_factory=Counter)
    verify: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    trainable: int | None = None
    zero_advantage: int = 0
    chunks: int = 0
    chunked_tokens: int = 0
    spread: dict[str, Moments] = field(default_factory=dict)
    process_outcome: dict[str, Pairs] = field(default_factory=dict)
    pay: dict[str, Pairs] = field(default_factory=dict)
    gate: dict[bool, tuple[int, float]] = field(default_factory=dict)
    binary: dict[str, bool] = field(default_factory=dict)
    rewards: dict[str, str] = field(default_factory=dict)
    by_token: bool = False
    counting: int = 0
    zero_logprobs: int = 0
    wrong_logprobs: int = 0
    uncertain_logprobs: int = 0
    padding: tuple[Forecast, ...] = ()
    padding_unknown: str | None = None
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, fact: str, ids: pa.ChunkedArray, which: NDArray[np.bool_]) -> int:
        """Remember the first ids for which `which` holds; returns how many there are."""
        known = self.examples.setdefault(fact, [])
        for row in np.flatnonzero(which)[: _SHOWN - len(known)].tolist():
            known.append(ids[row].as_py())
        return int(which.sum())


def gather(dataset: CompleteDataset, progress: Any = None, *, padding_score: float | None = None) -> Facts:
    """Read every part's light columns once. progress(parts done, parts); padding_score: default `poor_level`."""
    carried = dataset.spec.carried
    config = shaping_config(dataset.spec) if dataset.spec.stage == "shape" else None
    facts = Facts(
        config=config,
        statistics=None if config is None else statistics_of(dataset.spec, config),
        sampling=carried.get("sampling") or {},
        round=carried.get("round"),
        outcome_signal=(carried.get("signals") or {}).get("outcome"),
    )
    sample = GroupSample(PADDED_GROUPS)
    for table in joined(_parts(dataset, facts.config, progress)):
        add_part(facts, table)
        if facts.config is not None:
            sample.add(table, {})
    if facts.config is not None and (drawn := sample.tables()) is not None:
        _forecast_padding(facts, drawn[0], facts.config, score=padding_score)
    return facts


def _parts(dataset: CompleteDataset, config: ShapingConfig | None, progress: Any) -> Iterator[pa.Table]:
    """Every part's light columns."""
    for part in range(len(dataset.parts)):
        with dataset.open_part(part) as file:
            schema = file.schema_arrow
            names = schema.names
            wanted = [name for name in names if name in _COLUMNS or name.startswith("status_")]
            wanted += [name for name in names if name.endswith(_SHAPED_ENDINGS) and name not in wanted]
            wanted += [name for name in _read_by(config, schema) if name not in wanted]
            yield read_columns(file, wanted)
        if progress:
            progress(part + 1, len(dataset.parts))


def joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables, one after the other; small ones of the same columns as one, for each costs its calls first of all.

    A group is in one part alone, so that joined parts hold the groups of each.
    """
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        if waiting and table.schema != waiting[0].schema:
            yield _as_one(waiting)
            waiting, held = [], 0
        waiting.append(table)
        held += table.nbytes
        del table  # a large part is not held while the next one is read
        if held >= _JOINED_BYTES:
            yield _as_one(waiting)
            waiting, held = [], 0
    if waiting:
        yield _as_one(waiting)


def _as_one(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


def _read_by(config: ShapingConfig | None, schema: pa.Schema) -> list[str]:
    """Columns of any name that streams or a function of a group read, and that are there."""
    if config is None:
        return []
    if config.streams is not None:
        planned = plan(schema.empty_table(), config)
        verify = verify_column(schema.names, config)
        return [*planned.types, *planned.keys.values(), *([verify] if verify else [])]
    try:
        return [name for name in estimator_columns(config) if name in schema.names]
    except OptionError:  # it is not on this machine, which the forecast of padding says
        return []


def _forecast_padding(facts: Facts, table: pa.Table, config: ShapingConfig, *, score: float | None) -> None:
    """What one added step would earn. A function of one's own that is not on this machine cannot be asked."""
    asked = [poor_level(table, config=config)] if score is None else given_levels(table, [score], config=config)
    levels = [*asked, *score_levels(table, config=config)]
    try:
        facts.padding = tuple(forecast(table, config, levels=levels, steps=(1,), statistics=facts.statistics))
    except (OptionError, MissingColumnError, EstimatorError) as error:  # or it does not take such a score
        facts.padding_unknown = str(error)


def add_part(facts: Facts, table: pa.Table) -> None:
    """Add the rows of one part, or of several."""
    names = set(table.column_names)
    keys = group_keys(table)
    bounds_G1 = group_bounds(keys)
    group_R = group_numbers(bounds_G1)
    facts.rollouts += len(table)
    facts.groups += len(bounds_G1) - 1
    _count_statuses(facts, table, names)
    _count_groups(facts, table, keys, bounds_G1, group_R)
    facts.rewards = _reward_columns(facts, table)
    for name in set(facts.rewards.values()):
        if name in names:
            values = table[name].drop_null().to_numpy()
            facts.binary[name] = facts.binary.get(name, True) and bool(np.isin(values, (0.0, 1.0)).all())
    if "format_ok" in names and "format_reward" not in names:
        facts.binary["format_reward"] = True  # the indicator stands in for it
    if "behavior_logprobs" in names:
        _count_logprobs(facts, table)
    outcome = _outcome_column(facts, names)
    if outcome is not None:
        for column, ends in _compared(facts, table).items():
            _compare_process(facts, table, group_R, column=column, ends=ends, outcome=outcome)
    if "trainable" in names:
        _count_shaped(facts, table, group_R)


def _count_statuses(facts: Facts, table: pa.Table, names: set[str]) -> None:
    verify = verify_column(names, facts.config)
    for fact, column, counter in (
        ("finish_reason", "finish_reason", facts.finish),
        ("verify_status", verify, facts.verify),
    ):
        if column in names:
            counter.update(table[column].to_pylist())
            for bad in ("length", "error", "timeout", "unparseable"):
                facts.note(f"{fact} {bad}", table["rollout_id"], table[column].to_numpy() == bad)
    for column in sorted(name for name in names if name == "status" or name.startswith("status_")):
        name = column.removeprefix("status").removeprefix("_")
        facts.statuses.setdefault(name, Counter()).update(table[column].to_pylist())
        facts.note(f"status {name}", table["rollout_id"], table[column].to_numpy() != "ok")


def _count_groups(
    facts: Facts, table: pa.Table, keys: pa.ChunkedArray, bounds_G1: NDArray[np.int64], group_R: NDArray[np.int64]
) -> None:
    first_G = keys.take(pa.array(bounds_G1[:-1]))
    sizes_G = np.diff(bounds_G1)
    left_G = sizes_G
    if "trainable" in table.column_names:
        left_G = np.bincount(group_R, weights=table["trainable"].to_numpy(), minlength=len(sizes_G)).astype(np.int64)
    wanted = facts.sampling.get("group_size")
    if wanted:
        facts.partial_groups += facts.note("partial", first_G, left_G < int(wanted))
    if not wanted or int(wanted) > 1:  # groups of one by choice are no accident
        facts.singletons += facts.note("singleton", first_G, left_G == 1)
    outcome = _outcome_column(facts, set(table.column_names))
    if outcome is not None and len(sizes_G):
        reward_R = table[outcome].to_numpy().astype(np.float64)
        low_G = np.fmin.reduceat(reward_R, bounds_G1[:-1])
        high_G = np.fmax.reduceat(reward_R, bounds_G1[:-1])
        scored_G = np.add.reduceat((~np.isnan(reward_R)).astype(np.int64), bounds_G1[:-1]) > 1
        facts.scored_groups += int(scored_G.sum())
        facts.constant_groups += facts.note("constant", first_G, scored_G & (low_G == high_G))


def _count_logprobs(facts: Facts, table: pa.Table) -> None:
    known = table["behavior_logprobs"].is_valid()
    table = table if table["behavior_logprobs"].null_count == 0 else table.filter(known)  # imports may not know them
    if len(table) == 0:
        return
    mask_N = list_values(table["loss_mask"])
    value_N = list_values(table["behavior_logprobs"])
    row_N = np.repeat(np.arange(len(table)), list_lengths(table["loss_mask"]))
    wrong_N = mask_N & (~(value_N <= LOGPROB_ROUNDING) | np.isneginf(value_N))
    uncertain_N = mask_N & (np.abs(value_N) > LOGPROB_ROUNDING)
    facts.counting += int(mask_N.sum())
    facts.zero_logprobs += int((mask_N & (value_N == 0.0)).sum())
    facts.wrong_logprobs += int(wrong_N.sum())
    facts.uncertain_logprobs += int(uncertain_N.sum())
    for fact, which_N in (("wrong logprobs", wrong_N), ("uncertain", uncertain_N)):
        facts.note(fact, table["rollout_id"], np.bincount(row_N, weights=which_N, minlength=len(table)) > 0)


def _reward_columns(facts: Facts, table: pa.Table) -> dict[str, str]:
    """Stream -> its column, of those with one value a rollout."""
    if facts.config is None or facts.config.streams is None:
        return {"outcome": "outcome_reward", "format": "format_reward"}
    sources = plan(table, facts.config).sources
    return {name: source.values for name, source in sources.items() if source.level == "rollout"}


def _outcome_column(facts: Facts, names: set[str]) -> str | None:
    """The outcome reward; where streams alone name it, that of the signal which says who is right."""
    config = facts.config
    prefixed = f"{config.right}_outcome_reward" if config is not None and config.streams is not None else ""
    return next((name for name in ("outcome_reward", prefixed) if name in names), None)


def _compared(facts: Facts, table: pa.Table) -> dict[str, str | None]:
    """Column of process scores to be held against the outcome -> its column of ends."""
    if facts.config is not None and facts.config.streams is not None:
        return dict(scored_columns(table, facts.config).ends)
    ends = "process_ends" if "process_ends" in table.column_names else None
    return {PROCESS: ends} if PROCESS in table.column_names else {}


def _compare_process(
    facts: Facts, table: pa.Table, group_R: NDArray[np.int64], *, column: str, ends: str | None, outcome: str
) -> None:
    scores = table[column]
    row_N = np.repeat(np.arange(len(table)), list_lengths(scores))
    sums_R = np.bincount(row_N, weights=list_values(scores), minlength=len(table))
    counts_R = list_lengths(scores)
    if ends is None and "loss_mask" in table.column_names:
        counts_R = _counting(table)  # a masked token's score is stored as 0.0
    reward_R = table[outcome].to_numpy().astype(np.float64)
    use_R = scores.is_valid().to_numpy() & (counts_R > 0) & ~np.isnan(reward_R)
    mean_R = sums_R[use_R] / counts_R[use_R]
    group = group_R[use_R]
    found = Pairs.of(centred(mean_R, group), centred(reward_R[use_R], group))
    facts.process_outcome[column] = facts.process_outcome.get(column, Pairs()) + found


def _count_shaped(facts: Facts, table: pa.Table, group_R: NDArray[np.int64]) -> None:
    trainable_R = table["trainable"].to_numpy().astype(bool)
    lists = table["chunk_advantages"]
    counts_R = list_lengths(lists)
    row_K = np.repeat(np.arange(len(table)), counts_R)
    advantage_K = list_values(lists)
    moved_R = np.bincount(row_K, weights=advantage_K != 0.0, minlength=len(table)) > 0
    facts.trainable = (facts.trainable or 0) + int(trainable_R.sum())
    facts.zero_advantage += facts.note("zero advantage", table["rollout_id"], trainable_R & ~moved_R)
    facts.note("untrainable", table["rollout_id"], ~trainable_R)
    facts.chunks += int(counts_R[trainable_R].sum())
    tokens_R = _counting(table)
    facts.chunked_tokens += int(tokens_R[trainable_R].sum())
    filled_R = counts_R > 0
    first_R = np.zeros(len(table))
    first_R[filled_R] = advantage_K[(np.cumsum(counts_R) - counts_R)[filled_R]]
    right_R = rightness(table, facts.config)
    for side, sign in (("right", 1), ("wrong", 0)):
        rows_R = trainable_R & (right_R == sign)
        group = group_R[rows_R]
        pairs = Pairs.of(centred(tokens_R[rows_R], group), centred(first_R[rows_R], group))
        facts.pay[side] = facts.pay.get(side, Pairs()) + pairs
    if facts.config is not None and facts.config.method is not None and facts.config.method.gated:
        _count_gate(facts, table, trainable_R)
    if facts.config is not None:
        if facts.config.streams is not None:
            planned = plan(table, facts.config)
            levels = {planned.sources[name].level for name in planned.cutters}
            facts.by_token = levels == {"token"}
        rows = table.filter(pa.array(trainable_R))
        for stream, found in spread(rows, facts.config, statistics=facts.statistics).items():
            facts.spread[stream] = facts.spread.get(stream, Moments()) + found


def _count_gate(facts: Facts, table: pa.Table, trainable_R: NDArray[np.bool_]) -> None:
    if "format_ok" not in table.column_names:
        return
    ok_R = table["format_ok"].fill_null(True).to_numpy().astype(bool)
    squares_R = squares(table)
    for opened in (True, False):
        rows_R = trainable_R & (ok_R == opened)
        count, total = facts.gate.get(opened, (0, 0.0))
        facts.gate[opened] = count + int(rows_R.sum()), total + float(squares_R[rows_R].sum())


def _counting(table: pa.Table) -> NDArray[np.int64]:
    """Tokens that count of each rollout."""
    lists = table["loss_mask"]
    row_N = np.repeat(np.arange(len(table)), list_lengths(lists))
    return np.bincount(row_N[list_values(lists)], minlength=len(table)).astype(np.int64)
