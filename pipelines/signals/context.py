"""Another prompt for stored completions: the task with its answer, a peer's solution, a critique or a hint in it.

    ids scored = ids of the new prompt + ids of the completion, as stored

The new prompt is encoded as prompts are for sampling, by the tokenizer and chat template of the model that scores; no
token spans the boundary. What the policy wrote (a peer's text, a signal's columns) is text to that tokenizer: names of
special tokens in it are spelled out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Self

import pyarrow as pa

from pass_ops.shards import DatasetSpec, signal_schema
from pass_ops.support.importing import source_digest
from pass_ops.support.nearest import advice
from pipelines.engines.base import RequestRejected
from pipelines.engines.prompts import (
    apply_template,
    argument_problem,
    as_messages,
    encode_prompt,
    framed,
    rejecting_unspelled,
)
from pipelines.options import Table, options
from pipelines.options.types import Seconds, Strings, Workers, ZeroOrMore
from pipelines.signals.base import Row, SignalInputError, SignalOptionError
from pipelines.signals.calls import DEFAULT_TIMEOUT_S, check_call, check_target
from pipelines.signals.peers import PeerKind, choose_peers
from pipelines.signals.prompt_columns import columns_by_prompt, known_columns, of_group
from pipelines.signals.spelled import encode, holds_protected, protected
from pipelines.verifiers.pool import CallResult, shared_pool

# {name}, or {{text}} for {text} itself. What begins with no letter ({}, {1}, {"a": 1}) is text.
_PLACE = re.compile(r"\{\{([^{}\n]*)\}\}|\{([^\W\d][^{}\n]*)\}")
Messages = list[dict[str, str]]


@options(SignalOptionError)
class Context:
    """Which prompt stored completions are scored after: a template or a function of yours over the prompt's columns."""

    template: str | None = None
    """The new prompt; of a chat, the content of the last user message. {prompt} is the task, {answer} and {source} are
    columns of the prompts, other names those of prompts.extra, {peer} another rollout's text, {SIGNAL.COLUMN} a
    column of a signal; {{name}} stands for {name} itself. Set this or function. Example:
    "{prompt}\\n\\nA correct solution:\\n{peer}\\n\\nSolve it anew."."""
    function: str | None = None
    """module:function of (row, **function_options) -> the new prompt as a text or as messages; None leaves the row
    null. row: rollout_id, prompt, messages, answer, source, extra, text (the completion's own), peer, signals by name.
    Example: "my_contexts:with_hint"."""
    function_options: Table = field(default_factory=dict)
    """Keyword arguments of the function. Example: { words = 20 }."""
    signals: Strings = ()
    """Names of signals whose columns the function reads. Example: ["critique"]."""
    peer: PeerKind | None = None
    """Which other rollouts of the group {peer} may be, by the outcome signal. A rollout without one is null. Example:
    "right"."""
    outcome: str | None = None
    """Name of the outcome signal that says which rollouts are right; needed with peer. Example: "outcome"."""
    number: ZeroOrMore = 0
    """Which of the possible peers, in an order drawn for each rollout: signals that differ in number alone show
    different peers."""
    seed: int = 0
    """Seed of that order."""
    chat: bool | None = None
    """Whether a plain prompt goes through the chat template (default: as the rollouts were sampled). Example: true."""
    system: str | None = None
    """A system message before messages that have none (default: as the rollouts were sampled). Example:
    "Be brief."."""
    chat_template_kwargs: Table | None = None
    """Further arguments of the chat template (default: as the rollouts were sampled). Example:
    { enable_thinking = false }."""
    timeout_s: Seconds = DEFAULT_TIMEOUT_S
    """Seconds after which a call of the function is killed; its row's status is then timeout."""
    workers: Workers | None = None
    """Processes that call the function (default: one per core). Example: 4."""

    def __post_init__(self) -> None:
        if (self.template is None) == (self.function is None):
            given = "neither" if self.template is None else "both"
            raise SignalOptionError(f"context: of template and function {given} is set; it needs exactly one of them")
        if (self.peer is None) != (self.outcome is None):
            has, lacks = ("peer", "outcome") if self.outcome is None else ("outcome", "peer")
            raise SignalOptionError(
                f"context: {has} is set and {lacks} is not; peer says which rollouts are shown, outcome which are right"
            )
        if problem := argument_problem(self.chat_template_kwargs or {}):
            raise SignalOptionError(f"context.chat_template_kwargs{problem}")
        if self.function is not None:
            check_target("context.function", self.function)
            return
        if self.function_options or self.signals:
            raise SignalOptionError("context: function_options and signals belong to a function, and there is none")
        if ("peer" in self.places) != (self.peer is not None):
            fact = "has {peer}, but peer is not set" if self.peer is None else "has no {peer}, but peer is set"
            raise SignalOptionError(f"context: template {fact}; set peer (and outcome) where the template shows one")

    @property
    def places(self) -> list[str]:
        """The names that the template mentions, each once."""
        return list(dict.fromkeys(found[2] for found in _PLACE.finditer(self.template or "") if found[2]))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The prompts, and the signals that it reads."""
        named = [name.rpartition(".")[0] for name in self.places if "." in name]
        return tuple(dict.fromkeys(["prompts", *([self.outcome] if self.outcome else []), *named, *self.signals]))

    def as_values(self) -> dict[str, Any]:
        """What decides the prompts, for the fingerprint; the function's source stands beside it (`code`)."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}

    def code(self) -> dict[str, str]:
        """The user's function."""
        return {self.function: source_digest(self.function)} if self.function else {}

    def as_sampled(self, rollouts: DatasetSpec) -> Self:
        """With the form of the prompt that the rollouts were sampled with, where none is given."""
        form = rollouts.options
        kwargs = form.get("chat_template_kwargs") or {}
        return replace(
            self,
            chat=bool(form.get("chat")) if self.chat is None else self.chat,
            system=form.get("system") if self.system is None else self.system,
            chat_template_kwargs=kwargs if self.chat_template_kwargs is None else self.chat_template_kwargs,
        )

    def check(self, inputs: Mapping[str, DatasetSpec], *, templated: bool) -> None:
        """Refuse unknown columns, signals of another kind, a function that cannot be called, and a chat without a
        template (templated: the model has one). Raises SignalInputError, SignalOptionError.
        """
        if self.chat and not templated:
            raise SignalOptionError(
                "context.chat is true (or the rollouts' prompts went through a chat template), but the model that "
                "scores has none; set context.chat = false, or name a model with one"
            )
        if self.outcome is not None and (kind := inputs[self.outcome].options.get("kind")) != "outcome":
            raise SignalInputError(f"context.outcome: the signal {self.outcome!r} is of kind {kind}, not outcome")
        if self.function is not None:
            check_call("context.function", self.function, ("row",), self.function_options)
        known = [*known_columns(inputs["prompts"]), *(["peer"] if self.peer else [])]
        for name, dataset in inputs.items():
            if name != "prompts":
                columns = signal_schema(str(dataset.options.get("kind"))).names
                known += [f"{name}.{column}" for column in columns if column != "rollout_id"]
        for name in self.places:
            if name not in known:
                raise SignalInputError(
                    f"context.template has {{{name}}}, and there is no such column; {advice(name, known)} (write "
                    f"{{{{{name}}}}} for the text {{{name}}}, and add columns of your data to prompts.extra)"
                )

    def prompts(
        self, rollouts: pa.Table, inputs: Mapping[str, pa.Table], *, tokenizer: Any, wanted: Sequence[bool]
    ) -> list[list[int] | Row | None]:
        """Token ids of each rollout's new prompt, or the row of one that has none; None where it is not wanted."""
        facts = list(self._facts(rollouts, inputs, tokenizer))
        asked = [row for row, want in zip(facts, wanted, strict=True) if want]
        made = iter(self._called(asked) if self.function else [self._rendered(row) for row in asked])
        form = _Form(bool(self.chat), self.system, self.chat_template_kwargs or {})
        encoded = partial(_encoded, tokenizer, form=form)
        return [encoded(next(made), row) if want else None for row, want in zip(facts, wanted, strict=True)]

    def _facts(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table], tokenizer: Any) -> Iterator[dict[str, Any]]:
        """What is known of each rollout, as a function gets it; and why it has no peer, as "without"."""
        columns = columns_by_prompt(inputs["prompts"])
        talks = dict(zip(*(inputs["prompts"][name].to_pylist() for name in ("prompt_id", "messages")), strict=True))
        rows = rollouts.select(["group_id", "rollout_id", "text"]).to_pylist()
        peers: list[tuple[str | None, str]] = [(None, "")] * len(rows)
        if self.peer is not None and self.outcome is not None:
            peers = choose_peers(rollouts, inputs[self.outcome], kind=self.peer, number=self.number, seed=self.seed)
        signals = {name: self._read(name, table).to_pylist() for name, table in inputs.items() if name != "prompts"}
        clean = partial(_clean, tokenizer)
        for index, (row, (peer, without)) in enumerate(zip(rows, peers, strict=True)):
            own = of_group(columns, row["group_id"])
            yield {
                "rollout_id": row["rollout_id"],
                "prompt": own["prompt"],
                "messages": talks[row["group_id"]],
                "answer": own["answer"],
                "source": own["source"],
                "extra": {name: value for name, value in own.items() if name not in ("prompt", "answer", "source")},
                "text": clean(row["text"]),
                "peer": clean(peer),
                "without": without,
                "signals": {
                    name: {key: clean(v) for key, v in table[index].items()} for name, table in signals.items()
                },
            }

    def _read(self, name: str, table: pa.Table) -> pa.Table:
        """The columns of a signal that a template mentions; all of them for a function."""
        mentioned = [place.rpartition(".") for place in self.places if "." in place]
        return table if self.function else table.select([column for signal, _, column in mentioned if signal == name])

    def _called(self, rows: Sequence[Mapping[str, Any]]) -> list[str | Messages | Row]:
        """What the function makes of each row that has the peer it needs."""
        ready = [row for row in rows if not row["without"]]
        pool = shared_pool(str(self.function), adapter="pipelines.verifiers.base:plain_context", workers=self.workers)
        calls = [({name: value for name, value in row.items() if name != "without"},) for row in ready]
        results = iter(pool.map(calls, options=self.function_options, timeout_s=self.timeout_s))
        return [Row("no_input", row["without"]) if row["without"] else _result(next(results)) for row in rows]

    def _rendered(self, row: Mapping[str, Any]) -> str | Row:
        """The template with a row's values, or which of them is missing."""
        if row["without"]:
            return Row("no_input", row["without"])
        values = {**row["extra"], **{name: row[name] for name in ("prompt", "answer", "source", "peer")}}
        for name in self.places:
            if name not in values and "." in name:
                signal, _, column = name.rpartition(".")
                values[name] = row["signals"][signal][column]
            if values.get(name) is None:
                return Row("no_input", f"{name} is null, which the context needs")
        return _PLACE.sub(lambda at: _text(values[at[2]]) if at[2] else f"{{{at[1]}}}", self.template or "")


@dataclass(frozen=True)
class _Form:
    """See `pipelines.engines.prompts.PromptForm`."""

    chat: bool
    system: str | None
    chat_template_kwargs: Mapping[str, Any]


def with_task(messages: Sequence[Mapping[str, str]], task: str) -> Messages:
    """The conversation with another last message of its user.

    >>> with_task([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "new")[1]["content"]
    'new'
    """
    found = [dict(message) for message in messages]
    last = max(index for index, message in enumerate(found) if message["role"] == "user")
    found[last]["content"] = task
    return found


def _encoded(tokenizer: Any, made: str | Messages | Row, row: Mapping[str, Any], *, form: _Form) -> list[int] | Row:
    if isinstance(made, Row):
        return made
    if isinstance(made, list):
        text, messages = None, made
    elif row["messages"] is not None:
        text, messages = None, with_task(row["messages"], made)
    else:
        text, messages = made, None
    try:
        return context_ids(tokenizer, text, messages, form=form)
    except RequestRejected as rejected:
        return Row("error", f"the context cannot be a prompt: {rejected}")


def context_ids(tokenizer: Any, text: str | None, messages: Messages | None, *, form: _Form) -> list[int]:
    """Token ids as `encode_prompt` gives them, names of special tokens in protected words spelled out.

    Raises RequestRejected.
    """
    said = [text or ""] if messages is None else [message["content"] for message in messages]
    if not any(holds_protected(tokenizer, words) for words in said):
        return encode_prompt(tokenizer, text, messages, options=form)
    conversation = as_messages(text, messages, options=form)
    with rejecting_unspelled():
        if conversation is not None:
            whole = str(apply_template(tokenizer, conversation, form.chat_template_kwargs, tokenize=False))
            return encode(tokenizer, whole, add_special_tokens=False)[0]
        ids = encode(tokenizer, text or "", add_special_tokens=False)[0]
    before = framed(tokenizer, text or "")[0]
    return ids if ids[: len(before)] == before else before + ids


def _clean(tokenizer: Any, value: Any) -> Any:
    """A value that the policy had a hand in: texts protected."""
    return protected(tokenizer, value) if isinstance(value, str) else value


def _result(result: CallResult) -> str | Messages | Row:
    if result.status != "ok":
        return Row(result.status, f"the context's function: {result.detail}")
    if result.value is None:
        return Row("no_input", "the context's function gave none")
    found: str | Messages = result.value
    return found


def _text(value: Any) -> str:
    """As a template shows it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
