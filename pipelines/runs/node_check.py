"""Do a run's engines and its update fit the GPUs that it names? Asked before anything runs; nothing is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.runners.gpus import GivenGpus, GpuError, engine_cards, node_cards
from pipelines.runs.machine_check import Use
from trainer import TrainOptions


def node_problems(gpus: GivenGpus, uses: Sequence[Use], train: TrainOptions, *, count: int) -> Iterator[str]:
    """One line each: a GPU that is not there, an engine that leaves some over, an update that needs one process.

    uses: the engines and the update, as `Use.options` tells them apart. count: how many GPUs this process may use.
    """
    try:
        cards = node_cards(gpus, count=count)
    except GpuError as error:
        yield str(error)
        return
    on_cpu = cards[0] == "cpu"
    for use in uses:
        if use.options is not None and use.options.kind == "server":
            continue
        if (use.options is None or use.options.kind != "recorded") and (use.device == "cpu") != on_cpu:
            yield (
                f"{use.place}.device is {use.named!r}, which stands for {use.device} here, but runner.gpus names "
                f"{'the CPU' if on_cpu else 'GPUs'}; make the two agree"
            )
        try:
            if use.options is not None:
                engine_cards(gpus, each=use.gpus, count=count)
        except GpuError as error:
            yield f"{use.place}: {error}"
    if len(cards) > 1 and train.share_prompts and any(use.options is None for use in uses):
        yield (
            f"train.share_prompts is true, but the update runs as {len(cards)} processes, one on each of runner.gpus, "
            "and shared prompts need a single one; set it to false"
        )
