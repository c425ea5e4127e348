"""A node: one engine in front of several, each in a process of its own with its own GPUs.

To callers it is an engine like any other: `DrivenEngine` around a backend that deals requests out, each to the child
with the fewest open ones, the rollouts of a prompt up to sixteen at a time. A child that dies is replaced, and its
requests are asked again: a rollout follows from its seed, so nothing shows in the data.

docs/decisions/074-engines-behind-one-engine.md weighs this against several Beam workers.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from pipelines.engines.base import EngineOptions, SampleRequest
from pipelines.engines.device import resolve_device, resolve_dtype
from pipelines.engines.driver import Answer, DrivenEngine, Request
from pipelines.engines.errors import ChildrenDied
from pipelines.engines.node_process import Child, Far
from pipelines.engines.node_wire import Answers, Done, Order, Ready, unpack_answers
from pipelines.models.folder import load_tokenizer
from pipelines.runners.gpus import Cards, GivenGpus, count_gpus, engine_cards

_LOG = logging.getLogger(__name__)
START_POLL_SECONDS = 1.0
POLL_SECONDS = 0.005  # how long a new request may wait while the driver waits for an older one
MOST_DEATHS = 3  # of children: that one request was open in, or that one place saw before its engine ran
MOST_TOGETHER = 16  # rollouts of a prompt that go to one child in a row: it computes their prompt once


def cards_per_engine(options: EngineOptions) -> int:
    """How many GPUs one engine with these options computes on."""
    if options.kind != "vllm":
        return 1
    return int(options.extra.get("tensor_parallel_size", 1)) * int(options.extra.get("pipeline_parallel_size", 1))


def start(model: str, options: EngineOptions, gpus: GivenGpus) -> DrivenEngine:
    """An engine in front of as many as the GPUs hold. Raises GpuError, ChildrenDied, and what starting one raises."""
    places = engine_cards(gpus, each=cards_per_engine(options), count=count_gpus())
    return DrivenEngine(lambda: NodeBackend(model, options, places), model=model, name="node's", width=len(places))


class NodeBackend:
    """Children behind the driver's calls; see `driver.Backend`."""

    def __init__(self, model: str, options: EngineOptions, places: Sequence[Cards]) -> None:
        self.tokenizer = load_tokenizer(model)
        self.pools = options.pooling is not None
        self._model = model
        # What "auto" stands for is decided here, as the fingerprint has it: a child that differs is refused.
        resolved: dict[str, Any] = {"device": resolve_device(options), "dtype": resolve_dtype(model, options)}
        self._options = replace(options, **resolved)
        self._places = tuple(places)
        self._deaths: Counter[int] = Counter()  # key of a request -> children that died while it was open
        self._starts: Counter[int] = Counter()  # place -> children in a row that died before their engine ran
        self._last: tuple[Any, int, int] = (None, 0, 0)  # prompt, its child's place, requests in a row it went there
        self._children: list[Far] = []
        try:
            self._children += [self._start_child(place) for place in range(len(places))]
            for place in range(len(places)):
                self._await_start(place)
        except BaseException:
            for child in self._children:
                child.kill()
            raise
        first = self._children[0].ready
        assert first is not None
        self.max_model_len, self.vocab_size = first.max_model_len, first.vocab_size

    def add(self, key: int, request: Request) -> None:
        """Give one request to a child."""
        self._children[self._place(request)].take(key, request)

    def step(self) -> list[tuple[int, Answer]]:
        """Send what was added; what the children answered by now, or within a moment. Raises ChildrenDied."""
        for place, child in enumerate(self._children):
            try:
                child.flush()
            except OSError:
                self._replace(place)
        return self._hear(POLL_SECONDS)

    def drop(self, keys: Collection[int]) -> None:
        """In the children that have them."""
        for place, child in enumerate(self._children):
            try:
                child.drop(keys)
            except OSError:
                self._replace(place)
        for key in keys:
            del self._deaths[key]

    def load_weights(self, model: str) -> None:
        """In every child. Raises what one of them raised."""
        self._order(Order("load_weights", model))

    def sleep(self) -> None:
        """Every child gives its device up. One that is dead, or dies of it, holds nothing; waking starts another."""
        self._order(Order("sleep"))

    def wake(self, model: str) -> None:
        """Every child takes its device again."""
        self._order(Order("wake", model))

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            with contextlib.suppress(OSError):
                child.send(Order("close"))
        for child in self._children:
            child.stop()

    # --- where a request goes ------------------------------------------------------------------------------------

    def _place(self, request: Request) -> int:
        prompt = request.prompt_token_ids if isinstance(request, SampleRequest) else None
        known, place, count = self._last
        if prompt is None or prompt is not known or count == MOST_TOGETHER or self._children[place].ready is None:
            running = [i for i, child in enumerate(self._children) if child.ready is not None]
            place = min(running or range(len(self._children)), key=lambda i: len(self._children[i].open))
            count = 0
        self._last = (prompt, place, count + 1)
        return place

    # --- what comes back -----------------------------------------------------------------------------------------

    def _hear(self, timeout: float) -> list[tuple[int, Answer]]:
        answers: list[tuple[int, Answer]] = []
        # One that died asleep has no line any more; `wake` replaces it in its turn.
        places = {child.line: place for place, child in enumerate(self._children) if not child.line.closed}
        heard = wait(list(places), timeout)
        for line in heard:
            place = places[line]  # type: ignore[index]
            try:
                answers += self._answers(place, self._children[place].receive())
            except (EOFError, OSError):
                self._replace(place)
        for place in () if heard else places.values():
            if self._children[place].ended:  # its line is held open by a process its engine started
                self._replace(place)
        return answers

    def _answers(self, place: int, message: Any) -> list[tuple[int, Answer]]:
        child = self._children[place]
        if isinstance(message, Done):
            if child.ready is None and message.error is not None:
                raise message.error  # its engine cannot start
            child.done = message
            return []
        if isinstance(message, Ready):
            child.ready = message
            del self._starts[place]
            return []
        assert isinstance(message, Answers)
        answers = [(key, answer) for key, answer in unpack_answers(message) if key in child.open]  # else dropped
        for key, _ in answers:
            del child.open[key]
            del self._deaths[key]
        return answers

    def _order(self, order: Order) -> None:
        """Have every child do it, side by side. Raises the first error of one that could not."""
        self._model = order.model or self._model
        asked = list(self._children)
        for child in asked:
            child.done = None
            with contextlib.suppress(OSError):  # a dead one is found below
                child.send(order)
        for place, child in enumerate(asked):
            self._await_order(place, child, order)
        for child in asked:
            if child.done is not None and child.done.error is not None:
                raise child.done.error

    def _await_order(self, place: int, child: Far, order: Order) -> None:
        while child.done is None and child is self._children[place]:
            try:
                self._answers(place, child.receive())
            except (EOFError, OSError):
                if order.name == "sleep":
                    child.kill()
                    return
                self._replace(place)
        self._await_start(place)  # one that was started since is started on the ordered weights

    # --- life and death ------------------------------------------------------------------------------------------

    def _start_child(self, place: int) -> Far:
        cards = self._places[place]
        share = (place, len(self._places)) if "cpu" in cards else None
        return Child(self._model, self._options, cards=cards, share=share)

    def _await_start(self, place: int) -> None:
        while self._children[place].ready is None:
            self._hear(START_POLL_SECONDS)

    def _replace(self, place: int) -> None:
        """Start another child in a dead one's place, and have its requests answered. Raises ChildrenDied."""
        dead = self._children[place]
        dead.kill()
        if dead.ready is None:
            self._starts[place] += 1
        self._deaths.update(list(dead.open))
        deaths = max([self._starts[place], *(self._deaths[key] for key in dead.open)])
        if deaths >= MOST_DEATHS:
            when = "before the engine ran" if dead.ready is None else "while the same request was open in them"
            raise ChildrenDied(self._gave_up(deaths, when, dead))
        _LOG.warning("an engine's process on %s died and is replaced: %s", dead.name, dead.last_words())
        self._children[place] = self._start_child(place)
        for key, request in dead.open.items():
            self.add(key, request)

    def _gave_up(self, deaths: int, when: str, dead: Far) -> str:
        return (
            f"{deaths} processes of a node died one after another {when}, the last on {dead.name} by "
            f"{dead.last_words()}\nSIGKILL mostly says that the system had no memory left: lower "
            "engine.max_num_seqs or engine.max_model_len, or name fewer GPUs."
        )
