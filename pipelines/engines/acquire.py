"""The process's one engine: reused, reloaded with other weights, or restarted."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass

from pipelines.engines.base import Engine, EngineOptions, EngineStartError, WeightsMismatchError
from pipelines.engines.device import device_kind
from pipelines.engines.driver import DrivenEngine
from pipelines.models.folder import weights_identity
from pipelines.runners.gpus import GivenGpus


@dataclass(frozen=True)
class _Running:
    engine: DrivenEngine
    options: EngineOptions
    weights: tuple[tuple[str, int, int], ...]


# The per-process cache: Beam's worker threads share the engine, and stages and rounds of one process hand it on.
_lock = threading.Lock()
_running: _Running | None = None
_gpus: GivenGpus | None = None


def acquire(model: str, options: EngineOptions) -> Engine:
    """An engine running `model` with `options`, the only one `acquire` keeps in this process.

    Equal options and the very weight files it runs: the running engine. Equal options and a folder of the same
    architecture and tokenizer: the running engine with that folder's weights. Else, and where it died, the running one
    is closed and another started. Whoever still uses the engine for another model gets the new weights under their
    hands or EngineDead: a process works on one stage at a time. Safe to call from several threads. `release` closes it.
    """
    global _running  # noqa: PLW0603 - the documented per-process cache
    with _lock:
        weights = weights_identity(model)
        if _running is not None and not _running.engine.dead and _running.options == options:
            engine = _running.engine
            if _running.weights == weights:
                return engine
            with contextlib.suppress(WeightsMismatchError):
                engine.load_weights(model)
                _running = _Running(engine, options, weights)
                return engine
        _close()
        _running = _Running(_start(model, options), options, weights)
        return _running.engine


def use_gpus(gpus: GivenGpus | None) -> None:
    """Let `acquire` run engines on these GPUs, in processes of their own (`node`); None: in this process.

    What runs elsewhere is closed.
    """
    global _gpus  # noqa: PLW0603
    with _lock:
        if gpus != _gpus:
            _close()
            _gpus = gpus


def release() -> None:
    """Close the engine `acquire` keeps, if any, and give its memory back."""
    with _lock:
        _close()


def start_engine(model: str, options: EngineOptions) -> DrivenEngine:
    """A new engine of the kind `options` name, apart from the one `acquire` keeps; its caller closes it.

    Raises EngineStartError where this machine has not the device the options name.
    """
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


def _start(model: str, options: EngineOptions) -> DrivenEngine:
    if _gpus is None or options.kind == "server":
        return start_engine(model, options)
    from pipelines.engines import node

    return node.start(model, options, _gpus)


def _close() -> None:
    global _running  # noqa: PLW0603
    if _running is not None:
        _running.engine.close()
        _running = None
