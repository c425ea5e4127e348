"""verifiers' and prime-rl's traces: `traces.jsonl`, trace version 1.

One row an episode (id, task, group {id}?, traces) or a single trace. A trace is a graph of messages: each node has the
tokens it adds, a mask (True: sampled by the policy) and log-probabilities of the sampled ones alone; a path from a root
to a leaf is one rollout. Since verifiers 0.4 numbers are rounded to four decimals when written, which no field says.
Rewards have a score and a weight; the signal `reward` is their weighted sum, as prime-rl trains on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.imports.check import LENGTHS, finish_reason, number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_messages, as_text
from pipelines.rows.fields import FIELDS, as_object, list_of, of
from pipelines.rows.record import RowError

VERSION = 1


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The rollouts of an episode, or of a trace that stands alone."""
    if "nodes" in row:
        yield from _trace(row, _group(row, place), "")
        return
    traces = list_of(row, "traces")
    group = row.get("group")
    known = as_object(group, "group").get("id") if group is not None else None
    for at, given in enumerate(traces):
        trace = as_object(given, f"traces[{at}]")
        yield from _trace(trace, str(known) if known is not None else _group(trace, place), f"traces[{at}].")


def _group(trace: Mapping[str, Any], place: Place) -> str:
    """Without a group: the traces of one task, as the trace names it."""
    task = trace.get("task")
    if isinstance(task, Mapping):
        for name in ("key", "hash"):
            if task.get(name):
                return str(task[name])
        data = task.get("data")
        if isinstance(data, Mapping) and data.get("idx") is not None:
            return str(data["idx"])
    raise RowError("group", f"neither a group nor a task's key says what {place.where} belongs to")


def _trace(trace: Mapping[str, Any], group: str, where: str) -> Iterator[Record]:
    version = trace.get("version", VERSION)
    if version != VERSION:
        raise RowError("version", f"{where}version is {version!r}; traces of version {VERSION} are known")
    nodes = [as_object(node, f"{where}nodes[{at}]") for at, node in enumerate(list_of(trace, "nodes"))]
    parents = [node.get("parent") for node in nodes]
    for at, parent in enumerate(parents):
        if parent is not None and (type(parent) is not int or not 0 <= parent < at):
            raise RowError(FIELDS, f"{where}nodes[{at}].parent is {parent!r}; a parent stands before its node")
    calls = [call for call in trace.get("calls") or [] if isinstance(call, Mapping)]
    rewards = _rewards(trace, where)
    for leaf in range(len(nodes)):
        if leaf not in parents:
            path = _path(parents, leaf)
            if any(nodes[at].get("sampled") for at in path):
                yield _branch(nodes, path, calls, group=group, rewards=rewards, where=where)


def _path(parents: Sequence[int | None], leaf: int) -> list[int]:
    """From the root to the leaf."""
    path: list[int] = []
    at: int | None = leaf
    while at is not None:
        path.append(at)
        at = parents[at]
    return path[::-1]


def _branch(
    nodes: Sequence[Mapping[str, Any]],
    path: Sequence[int],
    calls: Sequence[Mapping[str, Any]],
    *,
    group: str,
    rewards: Mapping[str, float | None],
    where: str,
) -> Record:
    first = next(at for at, index in enumerate(path) if nodes[index].get("sampled"))
    ids: list[Any] = []
    mask: list[Any] = []
    logprobs: list[Any] | None = []
    for index in path:
        own, own_mask, own_logprobs = _tokens(nodes[index], f"{where}nodes[{index}]")
        ids += own
        mask += own_mask
        logprobs = None if logprobs is None or own_logprobs is None else logprobs + own_logprobs
    start = mask.index(True) if True in mask else 0
    messages = [as_object(of(nodes[index], "message"), f"{where}nodes[{index}].message") for index in path]
    said = as_messages([dict(message) for message in messages], f"{where}messages")
    own_calls = [call for call in calls if call.get("node") in path]
    return Record(
        messages=said[:first],
        text="\n\n".join(message["content"] for message in said[first:]),
        turns=sum(bool(nodes[index].get("sampled")) for index in path),
        prompt_token_ids=ids[:start] if ids else None,
        token_ids=ids[start:] if ids else None,
        loss_mask=mask[start:] if ids else None,
        logprobs=logprobs[start:] if logprobs and ids else None,
        finish_reason=finish_reason(nodes[path[-1]].get("finish_reason") or _last(own_calls, "finish_reason")),
        temperature=_temperature(own_calls),
        model=as_text(_last(own_calls, "model"), "model"),
        group=group,
        rewards=rewards,
    )


def _tokens(node: Mapping[str, Any], where: str) -> tuple[list[Any], list[bool], list[Any] | None]:
    """Ids, mask, and a log-probability for each token, 0.0 where the mask is False; None where there are none."""
    ids, mask, given = (list_of({name: node.get(name) or []}, name) for name in ("token_ids", "mask", "logprobs"))
    if len(ids) != len(mask):
        raise RowError(LENGTHS, f"{where} has {len(ids)} token ids and {len(mask)} values in its mask")
    if any(type(value) is not bool for value in mask):
        raise RowError("loss_mask", f"{where}.mask holds what is neither true nor false")
    sampled = sum(mask)
    if not given and sampled:
        return ids, mask, None
    if len(given) != sampled:
        raise RowError(LENGTHS, f"{where} has {sampled} sampled tokens and {len(given)} log-probabilities")
    values = iter(given)
    return ids, mask, [next(values) if counts else 0.0 for counts in mask]


def _rewards(trace: Mapping[str, Any], where: str) -> dict[str, float | None]:
    """The weighted sum, and each reward's own score where there are several."""
    given = as_object(trace.get("rewards") or {}, f"{where}rewards")
    scores: dict[str, float | None] = {}
    weighted: list[float] = []
    for name, reward in given.items():
        if reward is None or isinstance(reward, int | float):
            score, weight = number(reward, name), 1.0
        else:
            parts = as_object(reward, f"{where}rewards.{name}")
            score, weight = number(of(parts, "score"), name), number(parts.get("weight", 1.0), f"{name}.weight") or 0.0
        scores[name] = score
        weighted += [] if score is None else [weight * score]
    summed = {"reward": sum(weighted) if given and len(weighted) == len(scores) else None}
    return summed | (scores if len(scores) > 1 else {})


def _temperature(calls: Sequence[Mapping[str, Any]]) -> float | None:
    sampling = _last(calls, "sampling")
    return number(sampling.get("temperature"), "temperature") if isinstance(sampling, Mapping) else None


def _last(calls: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((call[name] for call in reversed(calls) if call.get(name) is not None), None)


VERIFIERS = Format(
    name="verifiers",
    read=read,
    about="verifiers' and prime-rl's traces",
    files=(".jsonl",),
    ids="some",
    logprobs="detect",
    mask="counts",
    group="key",
    temperature="source",
    tokenizer="source",
    source="verifiers 0.4, verifiers/v1/trace.py and graph.py, trace version 1",
)
