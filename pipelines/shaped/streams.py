"""Streams in a stored dataset: which signals they need, under which columns those stand, pools of the whole dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pass_ops import Statistics, pool_statistics
from pass_ops.errors import OptionError, StaleInputError
from pass_ops.options.config import ShapingConfig, load_estimator
from pass_ops.options.published import PUBLISHED
from pass_ops.options.streams import Stream
from pass_ops.reading.stream_sources import find_source, plan, read_streams
from pass_ops.shards import DatasetSpec
from pass_ops.shards.schemas import ROLLOUTS, TOKEN_STATISTICS, signal_schema

ROLES = ("process", "outcome", "format", "reference")
#: the column with a signal's values, by its kind
VALUES = {
    "outcome": "outcome_reward",
    "format": "format_reward",
    "process_steps": "process_scores",
    "process_tokens": "process_scores",
    "logprobs": "logprobs",
}


def named_signals(config: ShapingConfig) -> tuple[str, ...]:
    """The signals of streams that count in some round, and the one that says which rollouts are right, if one asks."""
    counting = [(config.streams or {})[name] for name in read_streams(config)]
    found = dict.fromkeys(stream.signal for stream in counting)
    if any(stream.asks_right for stream in counting):
        found[config.right] = None
    return tuple(found)


def check_roles(config: ShapingConfig, roles: Mapping[str, str | None]) -> None:
    """Refuse a stream's signal that is called like a stream of PASS which another signal holds.

    roles: process, outcome, format and reference -> signal name. Raises OptionError.
    """
    for name in named_signals(config):
        holder = roles.get(name) if name in ROLES else None
        if holder is not None and holder != name:
            raise OptionError(
                f"option streams: a stream names the signal {name!r}, but option {name} is {holder!r}, whose columns "
                f"stand under that name; name {holder!r}, rename the signal, or leave option {name} out"
            )


def on_table(config: ShapingConfig, roles: Mapping[str, str | None]) -> ShapingConfig:
    """The configuration with each signal under the name that its columns have in the joined table."""
    if config.streams is None:
        return config
    known = {name: role for role, name in roles.items() if name is not None}
    streams = {
        name: replace(stream, signal=known.get(stream.signal, stream.signal)) for name, stream in config.streams.items()
    }
    return replace(config, streams=streams, right=known.get(config.right, config.right))


def joined_name(name: str, column: str) -> str:
    """How a column of a signal that only streams name is called in the joined table."""
    return f"{column}_{name}" if column in ("status", "detail") else f"{name}_{column}"


def check_columns(config: ShapingConfig, roles: Mapping[str, str | None], kinds: Mapping[str, str]) -> None:
    """Refuse signals whose columns others would hide, those of a signal or of the rollouts, and unfit levels.

    kinds: signal name -> kind, of all that are joined. Raises OptionError, and what `pass_ops` raises.
    """
    streams = config.streams or {}
    fields = [*ROLLOUTS, *TOKEN_STATISTICS]
    known = {name: role for role, name in roles.items() if name is not None}
    for name, kind in kinds.items():
        for field in list(signal_schema(kind))[3:]:
            plain = name in known and kind != "logprobs"
            called = field.name if plain else joined_name(known.get(name, name), field.name)
            fields.append(field.with_name(called))
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(
            f"option streams: the column {twice!r} would be there twice, from two signals or from the rollouts and a "
            "signal; rename the signal"
        )
    table = pa.schema(fields).empty_table()
    for name in named_signals(config):
        kind = kinds[name]
        wanted = (
            VALUES[kind] if name in known and kind != "logprobs" else joined_name(known.get(name, name), VALUES[kind])
        )
        found = find_source(table, known.get(name, name), what=f"signal {name!r}").values
        if found != wanted:
            raise OptionError(
                f"option streams: the values of signal {name!r} are in {wanted!r}, but the column {found!r} of "
                "another signal, or of the rollouts, would be taken for them; rename the signal"
            )
    plan(table, on_table(replace(config, streams={name: _to_check(one) for name, one in streams.items()}), roles))


def _to_check(stream: Stream) -> Stream:
    """The stream of some round, without a key, whose column may be one of the rollouts."""
    keyless = replace(stream, pool="group", key=None) if stream.pool == "state" else stream
    return replace(keyless, weight=float(stream.ever_weighs)) if isinstance(stream.weight, tuple) else keyless


def rollout_columns(config: ShapingConfig) -> tuple[str, ...]:
    """The columns of rollouts that shaping reads, those that an estimator `reads` by name among them.

    Raises OptionError where an estimator of one's own cannot be imported.
    """
    keys = [stream.key for stream in (config.streams or {}).values() if stream.key in ROLLOUTS.names]
    stored = (*ROLLOUTS.names, *TOKEN_STATISTICS.names)
    read = [name for name in estimator_columns(config) if name in stored]
    return tuple(dict.fromkeys(["group_id", "rollout_id", "token_ids", "loss_mask", *filter(None, keys), *read]))


def estimator_columns(config: ShapingConfig) -> tuple[str, ...]:
    """The further columns that a function of a group says it `reads` (`pass_ops.group.reads`).

    Raises OptionError where an estimator of one's own cannot be imported.
    """
    published = PUBLISHED.get(config.estimator)
    path = config.estimator if ":" in config.estimator else published.function if published else None
    return tuple(getattr(load_estimator(path), "reads", ())) if path and config.streams is None else ()


def recorded(config: ShapingConfig, tables: Callable[[], Iterable[pa.Table]], spec: DatasetSpec) -> dict[str, Any]:
    """What `_dataset.json` carries of the first pass: the statistics, and the content digests of what they are of."""
    if not config.dataset_pools:
        return {}
    digests = {name: ref.content_digest for name, ref in spec.inputs.items()}
    return {"statistics": {**pool_statistics(tables(), config).plain(), "inputs": digests}}


def statistics_of(spec: DatasetSpec, config: ShapingConfig) -> Statistics | None:
    """The statistics that a dataset carries, where its pools need them.

    Raises:
        StaleInputError: they were recorded over other inputs. StatisticsError: with other options.
    """
    if not config.dataset_pools:
        return None
    carried = spec.carried.get("statistics")
    if carried is None:
        raise StaleInputError(
            "a pool is the whole dataset, but _dataset.json carries no statistics of a first pass; "
            "run the shape stage again (--overwrite)"
        )
    for name, ref in spec.inputs.items():
        digest = str(carried["inputs"].get(name))
        if digest != ref.content_digest:
            raise StaleInputError(
                f"the statistics of pool 'dataset' were recorded over {name} of content digest {digest[:16]}, and it "
                f"has {ref.content_digest[:16]} now: values would be measured against other data. "
                "Run the shape stage again (--overwrite)"
            )
    found = Statistics(options=carried["options"], pools=carried["pools"])
    found.check(config)
    return found
