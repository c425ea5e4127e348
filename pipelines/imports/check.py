"""A record against what its format declares: lengths, numbers and texts, before anything is kept of it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from pass_ops.support.chat import chat_problem
from pipelines.imports.record import Format, Record
from pipelines.rows.fields import FIELDS, encodable
from pipelines.rows.record import RowError

#: of a completion and its prompt together; the longest contexts have some million
MAX_TOKENS = 2**24
LENGTHS, TOKENS, LOGPROBS, MASK, REWARD = "lengths", "token_ids", "logprobs", "loss_mask", "reward"
#: the largest float32, near enough
_FLOAT32 = 3.4e38
_NUMBERS = (int, float)
_TEXTS = ("text", "prompt", "answer", "group", "source")
_texts = attrgetter(*_TEXTS)
#: a log-probability above 0 by less than this is a rounded 0
_ROUNDING = 1e-3
_FINISHED = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "finished", "completed"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "truncated", "max_length", "model_length"), "length"),
}
_ABORTED = frozenset({"abort", "aborted", "cancelled", "error", "failed"})


def checked(record: Record, form: Format) -> Record:
    """The record with its token columns as arrays, and the mask True where a token counts. Raises RowError."""
    if record.prompt is None and record.messages is None and record.prompt_token_ids is None:
        raise RowError(FIELDS, "no prompt is there, so nobody can tell what was asked")
    if record.text is None and record.token_ids is None:
        raise RowError(FIELDS, "no completion is there, neither as text nor as token ids")
    for name, value in zip(_TEXTS, _texts(record), strict=True):
        if value is not None:
            encodable(value, name)
    if record.messages is not None:
        _check_messages(record.messages)
    sample = record.sample_index
    if sample is not None and (type(sample) is not int or not 0 <= sample < 2**31):
        raise RowError(FIELDS, f"sample_index is {reprlib.repr(sample)}, not a whole number from 0")
    for name, reward in record.rewards.items():
        if reward is not None and not -_FLOAT32 <= reward <= _FLOAT32:
            raise RowError(REWARD, f"{name} is {reward!r}, which is no finite number")
    if record.steps is not None:
        _check_steps(record)
    if record.token_ids is not None:
        return _with_tokens(record, form)
    if record.logprobs is not None or record.loss_mask is not None:  # of tokens that nobody knows
        return record._replace(logprobs=None, loss_mask=None)
    return record


def finish_reason(given: Any) -> str | None:
    """Stop or length, by the names that samplers use; None for a name that says neither. Raises RowError: aborted."""
    name = given.lower() if isinstance(given, str) else None
    if name in _ABORTED:
        raise RowError("aborted", f"it ended as {given!r}, so its completion is not the policy's own end")
    return None if name is None else _FINISHED.get(name)


def number(value: Any, name: str) -> float | None:
    """A finite number, or None for null. Raises RowError."""
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, _NUMBERS) or not -_FLOAT32 <= value <= _FLOAT32:
        raise RowError(REWARD, f"{name} is {reprlib.repr(value)}, not a finite number")
    return float(value)


def _check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    for message in messages:
        encodable(message["role"], "a message's role")
        encodable(message["content"], "a message's content")
    if (problem := chat_problem([message["role"] for message in messages])) is not None:
        raise RowError(problem[0], problem[1])


def _check_steps(record: Record) -> None:
    steps, scores = record.steps or (), record.step_scores or ()
    if len(steps) != len(scores):
        raise RowError(LENGTHS, f"there are {len(steps)} steps and {len(scores)} scores; each needs its own")
    for index, (text, score) in enumerate(zip(steps, scores, strict=True)):
        encodable(text, f"steps[{index}]")
        number(score, f"step_scores[{index}]")


def _with_tokens(record: Record, form: Format) -> Record:
    token_ids = _ids(record.token_ids, "token_ids")
    if len(token_ids) == 0:
        raise RowError(TOKENS, "the completion has no token")
    prompt_ids = None if record.prompt_token_ids is None else _ids(record.prompt_token_ids, "prompt_token_ids")
    mask = _mask(record, form, tokens=len(token_ids))
    logprobs = None if record.logprobs is None else _logprobs(record.logprobs, mask)
    return record._replace(token_ids=token_ids, prompt_token_ids=prompt_ids, loss_mask=mask, logprobs=logprobs)


def _ids(given: Any, name: str) -> np.ndarray:
    try:
        ids = np.asarray(given)
    except (ValueError, OverflowError):
        ids = np.asarray(None)
    whole = ids.dtype.kind in "iu" or (ids.dtype.kind == "f" and ids.size == 0)
    if ids.ndim != 1 or not whole:
        raise RowError(TOKENS, f"{name} is {reprlib.repr(given)}, not a list of whole numbers")
    if len(ids) > MAX_TOKENS:
        raise RowError(TOKENS, f"{name} has {len(ids)} tokens, more than {MAX_TOKENS}")
    if len(ids) and not (ids.min() >= 0 and ids.max() < 2**31):
        raise RowError(TOKENS, f"{name} holds {int(ids.min())} to {int(ids.max())}; token ids are 0 to 2147483647")
    return ids.astype(np.int32)


def _mask(record: Record, form: Format, *, tokens: int) -> np.ndarray:
    if record.loss_mask is None:
        if form.mask != "assumed":
            raise RowError(MASK, "token ids are there and no mask, so which of them the policy chose is not known")
        return np.ones(tokens, np.bool_)
    given = np.asarray(record.loss_mask)
    if given.ndim != 1 or given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
        raise RowError(MASK, f"it is {reprlib.repr(record.loss_mask)}, not a list of 0 and 1")
    if len(given) != tokens:
        raise RowError(LENGTHS, f"there are {tokens} tokens and {len(given)} values in the mask")
    mask = given.astype(np.bool_)
    return ~mask if form.mask == "ignored" else mask


def _logprobs(given: Any, mask: np.ndarray) -> np.ndarray:
    """float64, 0.0 where masked. A mask of the other polarity shows: the others have values, its own are all 0.0."""
    try:
        values = np.asarray(given, np.float64)
    except (ValueError, TypeError):
        raise RowError(LOGPROBS, f"they are {reprlib.repr(given)}, not a list of numbers") from None
    if values.ndim != 1 or len(values) != len(mask):
        raise RowError(LENGTHS, f"there are {len(mask)} tokens and {values.size} log-probabilities")
    if not mask.all() and not values[mask].any() and (values[~mask] < 0).any():
        raise RowError(MASK, "only tokens that it leaves out have log-probabilities: it has the other polarity")
    counted = values[mask]
    if not np.isfinite(counted).all():
        raise RowError(LOGPROBS, f"one of them is {counted[~np.isfinite(counted)][0]}")
    if (counted > _ROUNDING).any():
        raise RowError(LOGPROBS, f"one of them is {counted.max():g}; the logarithm of a probability is at most 0")
    return np.where(mask, np.minimum(values, 0.0), 0.0)
