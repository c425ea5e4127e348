"""Who holds the device in this process, and how it goes from one to the next.

One device, and several who want it: the engine that samples, a reward model's, another model's, the trainer. Whoever
takes it finds it empty: the engine that samples sleeps, any other ends, and the trainer takes everything along when it
is done. On one GPU a round is

    policy engine awake -> asleep -> PRM engine beside it, ended -> trainer, freed -> policy engine awake, new weights

At each arrow the free memory is measured, and what is missing is told in words: who holds it, in this process or
outside. Without a device to measure (on a CPU) the order is the same and nothing is refused.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipelines.engines.base import Engine, EngineOptions
from pipelines.engines.device import free_cached_memory
from pipelines.engines.errors import DeviceHeldError, WeightsMismatchError
from pipelines.engines.machine import Memory, Meter, gib
from pipelines.engines.vllm_arguments import memory_share
from pipelines.models.folder import weights_identity

#: starts an engine
Start = Callable[[str, EngineOptions], Engine]
#: share of a device that may stay behind when a holder has left or sleeps (CUDA contexts, graphs, buffers of NCCL:
#: reports on sleeping tensor-parallel engines name up to 7.4 GB of an 80 GB card)
LEFT_BEHIND = 0.1
TOLERANCE = 0.02  # of a device: what its holders take and give back while it is measured
_LOG = logging.getLogger(__name__)
_Identity = tuple[tuple[str, int, int], ...]


@dataclass(kw_only=True)
class _Entry:
    """An engine. took: bytes of the device when it was started (None: not measured); kept: of them, asleep."""

    engine: Engine
    options: EngineOptions
    model: str
    weights: _Identity
    took: int | None = None
    kept: int = 0

    @property
    def name(self) -> str:
        return f"the {'reward' if self.options.pooling is not None else 'sampling'} engine of {self.model}"

    @property
    def samples(self) -> bool:
        return self.options.pooling is None


class Ledger:
    """The holders of one device. Thread-safe.

    Args:
        start: starts an engine.
        beside: starts one beside an engine that sleeps, in a process of its own; None where that is not possible, so
            that the sleeping one has to end.
        meter: measures the device.
    """

    def __init__(self, *, start: Start, beside: Start | None = None, meter: Meter) -> None:
        self._start = start
        self._beside = beside
        self._meter = meter
        self._lock = threading.RLock()
        self._entries: list[_Entry] = []
        self._lent: str | None = None

    def engine(self, model: str, options: EngineOptions) -> Engine:
        """An engine that runs `model` with `options`, awake; every other engine is asleep or ended.

        Equal options and the very weight files it runs: the engine that is there. Equal options and a folder of the
        same architecture and tokenizer: that engine with the folder's weights. Else another is started. Raises
        DeviceHeldError where the device is lent, or has not the room; and what starting an engine raises.
        """
        with self._lock:
            weights = weights_identity(model)
            if options.kind != "server" and options.logprobs_mode == "either":
                options = replace(
                    options, logprobs_mode="processed_logprobs"
                )  # which sampling at any temperature needs
            if self._lent is not None:
                raise DeviceHeldError(
                    f"{self._lent} has the device, so no engine can take it for {model}. Ask again when it is done."
                )
            for entry in [entry for entry in self._entries if entry.engine.dead]:
                self._end(entry)
            for entry in [entry for entry in self._entries if serves(entry.options, options)]:
                if self._turn_to(entry, model, weights):
                    return entry.engine
            return self._started(model, options, weights).engine

    @contextlib.contextmanager
    def lent(self, to: str) -> Iterator[None]:
        """The device without any engine on it, for `to` ("the trainer"), which must leave nothing on it.

        Raises DeviceHeldError where an engine, or afterwards `to`, still holds memory.
        """
        with self._lock:
            if self._lent is not None:
                raise DeviceHeldError(f"{self._lent} has the device, so {to} cannot take it. Let it end first.")
            for entry in list(self._entries):
                self._put_aside(entry)
            free_cached_memory()
            before = self._meter()
            self._lent = to
        try:
            yield
        finally:
            self._lent = None
            free_cached_memory()
        self._check_returned(f"{to} is done but", before)

    def rest(self) -> None:
        """Every engine aside, as nobody asks for the time being: the device is free for others.

        Raises DeviceHeldError where an engine still holds memory.
        """
        with self._lock:
            for entry in list(self._entries):
                self._end(entry) if entry.engine.dead else self._put_aside(entry)
            free_cached_memory()

    def close(self) -> None:
        """End every engine."""
        with self._lock:
            for entry in list(self._entries):
                self._end(entry)

    def _turn_to(self, entry: _Entry, model: str, weights: _Identity) -> bool:
        """Have an engine of the ledger run the folder; False where its architecture is another."""
        for other in [other for other in self._entries if other is not entry]:
            self._put_aside(other)
        if not entry.engine.asleep and entry.weights == weights:
            return True
        if entry.engine.asleep and entry.took is not None:
            self._check_room(f"to wake {entry.name}", entry.took - entry.kept)
        try:
            (entry.engine.wake if entry.engine.asleep else entry.engine.load_weights)(model)
        except WeightsMismatchError:
            self._end(entry)
            return False
        entry.model, entry.weights = model, weights
        return True

    def _started(self, model: str, options: EngineOptions, weights: _Identity) -> _Entry:
        stays = [e for e in self._entries if e.samples and options.pooling is not None and self._beside is not None]
        for entry in list(self._entries):
            self._put_aside(entry) if entry in stays else self._end(entry)
        start = self._beside if stays and self._beside is not None else self._start
        before = self._meter()
        if before is not None and options.kind == "vllm":
            self._check_room(f"to start an engine on {model}", int(memory_share(options) * before.total))
        engine = start(model, options)
        after = self._meter()
        took = None if before is None or after is None else max(0, before.free - after.free)
        self._entries.append(entry := _Entry(engine=engine, options=options, model=model, weights=weights, took=took))
        return entry

    def _put_aside(self, entry: _Entry) -> None:
        """The engine that samples sleeps, to wake faster than it starts; any other ends."""
        if not entry.samples:
            self._end(entry)
            return
        if entry.engine.asleep:
            return
        awake = self._meter()
        entry.engine.sleep()
        asleep = self._meter()
        if awake is None or asleep is None or entry.took is None:
            return
        entry.kept = max(0, entry.took - (asleep.free - awake.free))
        _LOG.info("%s sleeps: it held %s and keeps %s", entry.name, gib(entry.took), gib(entry.kept))
        if entry.kept > LEFT_BEHIND * asleep.total:
            raise DeviceHeldError(
                f"{entry.name} was put to sleep but still holds {gib(entry.kept)} of {gib(entry.took)} that it took; "
                f"{gib(asleep.free)} of {gib(asleep.total)} are free. Set engine.extra.enable_sleep_mode to false, so "
                "that it ends instead and is started again."
            )

    def _end(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        entry.engine.close()

    def _check_room(self, purpose: str, needed: int) -> None:
        memory = self._meter()
        if memory is not None and memory.free + TOLERANCE * memory.total < needed:
            raise DeviceHeldError(
                f"{gib(needed)} of the device are needed {purpose}, but {gib(memory.free)} of {gib(memory.total)} are "
                f"free. {self.holders()} End what else runs on the card (nvidia-smi lists it), then run this again."
            )

    def _check_returned(self, fact: str, before: Memory | None) -> None:
        after = self._meter()
        if before is None or after is None or after.free >= before.free - LEFT_BEHIND * after.total:
            return
        raise DeviceHeldError(
            f"{fact} {gib(before.free - after.free)} more of the device are held than before it; {gib(after.free)} of "
            f"{gib(after.total)} are free. What it made is complete and kept: run the same command again, which goes "
            "on from there in a new process."
        )

    def held(self) -> int:
        """Bytes of the device that the engines of this process hold, as far as they were measured."""
        return sum(entry.kept if entry.engine.asleep else entry.took or 0 for entry in self._entries)

    def holders(self) -> str:
        """A sentence on the engines of this process and what each took of the device."""
        named = [
            f"{entry.name}{' (asleep)' if entry.engine.asleep else ''}"
            + ("" if entry.took is None or entry.engine.asleep else f" holds {gib(entry.took)}")
            for entry in self._entries
        ]
        return f"In this process: {', '.join(named)}." if named else "No engine of this process holds any."


def serves(running: EngineOptions, wanted: EngineOptions) -> bool:
    """Whether an engine with the one options answers what is asked of one with the others.

    Their logprobs_mode may differ where the wanted one leaves it open: see `EngineOptions.logprobs_mode`.
    """
    if wanted.logprobs_mode not in ("either", running.logprobs_mode):
        return False
    return replace(running, logprobs_mode=wanted.logprobs_mode) == wanted
