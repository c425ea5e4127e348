"""The engines of this process: reused, reloaded with other weights, put to sleep, or restarted (`ledger`)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from pipelines.engines.base import Engine, EngineOptions, EngineStartError
from pipelines.engines.device import device_kind, device_memory
from pipelines.engines.driver import DrivenEngine
from pipelines.engines.ledger import Ledger, Start
from pipelines.engines.machine import least_memory, this_machine
from pipelines.models.source import local_model
from pipelines.runners.gpus import GivenGpus, count_gpus, node_cards
from pipelines.runners.keeping import Address


def acquire(model: str, options: EngineOptions) -> Engine:
    """An engine running `model` with `options`, the only one awake of those that `acquire` keeps in this process.

    Equal options and the very weight files it runs: the running engine. Equal options and a folder of the same
    architecture and tokenizer: the running engine with that folder's weights. Else, and where it died, the running one
    is closed, or put to sleep while a reward model runs beside it, and another is started. Whoever still uses the
    engine for another model gets the new weights under their hands, EngineAsleep or EngineDead: a process works on one
    stage at a time. Safe to call from several threads. `release` closes them.
    """
    return _ledger().engine(local_model(model), options)


def device_lent(to: str) -> AbstractContextManager[None]:
    """The device of this process without any engine on it, for `to` ("the trainer"). See `Ledger.lent`."""
    return _ledger().lent(to)


def use_gpus(gpus: GivenGpus | None) -> None:
    """Let `acquire` run engines on these GPUs, in processes of their own (`node`); None: in this process.

    Engines that run otherwise are closed.
    """
    global _gpus  # noqa: PLW0603 - as _kept
    with _lock:
        if gpus != _gpus:
            release()
            _gpus = gpus


def device_held() -> int:
    """Bytes of the device that the engines `acquire` keeps hold; 0 where nothing is measured."""
    return _ledger().held()


def release() -> None:
    """Close the engines that `acquire` keeps, and give their memory back."""
    global _kept  # noqa: PLW0603
    with _lock:
        if _kept is not None:
            _kept.close()
            _kept = None


def start_engine(model: str, options: EngineOptions) -> DrivenEngine:
    """A new engine of the kind `options` name, apart from those that `acquire` keeps; its caller closes it.

    Raises EngineStartError where this machine has not the device the options name.
    """
    model = local_model(model)
    if options.kind != "recorded" and options.device not in ("auto", device_kind()):
        raise EngineStartError(
            f"engine.device is {options.device}, but {socket.gethostname()} computes on {device_kind()}: its results "
            "would not be those the fingerprint stands for. Give every worker that device, or set engine.device."
        )
    if options.kind == "vllm":
        from pipelines.engines import vllm

        return vllm.start(model, options)
    if options.kind == "server":
        from pipelines.engines import server

        return server.start(model, options)
    if options.kind == "transformers":
        from pipelines.engines import transformers

        return transformers.start(model, options)
    from pipelines.engines import recorded

    return recorded.start(model, options)


# The per-process state: Beam's worker threads share an engine, and stages and rounds of one process hand it on.
_lock = threading.RLock()
_kept: Ledger | None = None
_gpus: GivenGpus | None = None


def _ledger() -> Ledger:
    global _kept  # noqa: PLW0603
    with _lock:
        if _kept is None:
            pool = Address.found()
            if _gpus is not None:
                _kept = _ledger_of_node(_gpus)
            elif pool is not None:
                _kept = Ledger(start=partial(_start_in_pool, pool=pool), meter=_not_measured)
            else:
                _kept = ledger_of_process()
        return _kept


def ledger_of_process(watched: Callable[[Start], Start] = lambda start: start) -> Ledger:
    """Engines in this process; on a GPU, one beside a sleeping one in a child, since vLLM can put one of a process to
    sleep.

    watched: what is to become of whatever starts one.
    """
    if this_machine().gpus and device_kind() == "cuda":
        return Ledger(start=watched(_start_on_gpu), beside=watched(_start_in_child), meter=device_memory)
    return Ledger(start=watched(start_engine), meter=device_memory)


def _start_in_pool(model: str, options: EngineOptions, *, pool: Address) -> Engine:
    if options.kind == "server":  # it has a machine of its own
        return start_engine(model, options)
    from pipelines.engines import kept

    return kept.start(model, options, pool)


def _not_measured() -> None:
    """The device is the pool's to measure, in the process that keeps its engines."""


def _start_on_gpu(model: str, options: EngineOptions) -> Engine:
    """In this process, unless it would leave the trainer vLLM's batch-invariant operators and their small workspace."""
    return _start_in_child(model, options) if options.deterministic else start_engine(model, options)


def _start_in_child(model: str, options: EngineOptions) -> Engine:
    from pipelines.engines import node

    return _start_on(model, options, gpus=tuple(range(node.cards_per_engine(options))))


def _ledger_of_node(gpus: GivenGpus) -> Ledger:
    cards = node_cards(gpus, count=count_gpus())
    start = partial(_start_on, gpus=gpus)
    return Ledger(start=start, beside=start, meter=partial(least_memory, cards))


def _start_on(model: str, options: EngineOptions, *, gpus: GivenGpus) -> Engine:
    if options.kind == "server":  # it has a machine of its own
        return start_engine(model, options)
    from pipelines.engines import node

    return node.start(model, options, gpus)
