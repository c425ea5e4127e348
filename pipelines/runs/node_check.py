"""Do a run's engines and its update fit the GPUs that it names? Asked before anything runs; nothing is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptions
from pipelines.engines.device import resolve_device
from pipelines.engines.node import cards_per_engine
from pipelines.models.folder import read_config
from pipelines.runners.gpus import Cards, GivenGpus, GpuError, count_gpus, engine_cards, node_cards
from pipelines.signals.base import Signal
from trainer import TrainOptions


def engines_of(signals: Mapping[str, Signal]) -> Iterator[tuple[str, str | None, EngineOptions]]:
    """Where it is configured, model and options of every engine that signals start."""
    for name, signal in signals.items():
        engine = getattr(signal, "engine", None)
        if isinstance(engine, EngineOptions) and getattr(signal, "url", None) is None:
            yield f"signals.{name}", getattr(signal, "model", None), engine


def node_problems(
    gpus: GivenGpus, engines: Iterable[tuple[str, str | None, EngineOptions]], train: TrainOptions | None
) -> Iterator[str]:
    """One line each: a GPU that is not there, an engine that leaves some over, an update that needs one process.

    engines: where each is configured, its model's folder where that is known, its options. train: None where nothing is
    trained.
    """
    count = count_gpus()
    try:
        cards = node_cards(gpus, count=count)
    except GpuError as error:
        yield str(error)
        return
    for place, model, options in engines:
        if options.kind == "server":
            continue
        try:
            engine_cards(gpus, each=cards_per_engine(options), count=count)
            _check_device(options, cards)
            if model is not None:
                _check_heads(model, options)
        except PassError as error:
            yield f"{place}: {error}"
    if train is not None and train.share_prompts and len(cards) > 1:
        yield (
            f"train.share_prompts is true, but the update runs as {len(cards)} processes, one on each of runner.gpus, "
            "and shared prompts need a single one; set it to false"
        )
    if train is not None and train.device != "auto" and (train.device == "cpu") != (cards[0] == "cpu"):
        yield (
            f"train.device is {train.device!r}, but the update runs on runner.gpus {list(cards)}; leave train.device "
            "out, or make the two agree"
        )


def _check_device(options: EngineOptions, cards: Cards) -> None:
    """The device that the fingerprint names is the one that the engine gets. Raises GpuError."""
    device = resolve_device(options)
    if options.kind != "recorded" and (device == "cpu") != (cards[0] == "cpu"):
        raise GpuError(
            f"engine.device is {options.device!r}, which stands for {device} here, but runner.gpus is {list(cards)}; "
            "make the two agree"
        )


def _check_heads(model: str, options: EngineOptions) -> None:
    """Tensor parallelism splits the attention heads evenly. Raises GpuError."""
    parallel = int(options.extra.get("tensor_parallel_size", 1)) if options.kind == "vllm" else 1
    heads = int(read_config(model).get("num_attention_heads", parallel))
    if heads % parallel:
        raise GpuError(
            f"engine.extra.tensor_parallel_size is {parallel}, but {model} has {heads} attention heads, which it does "
            f"not divide; choose a divisor of {heads}"
        )
