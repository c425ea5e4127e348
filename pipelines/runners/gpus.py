"""The GPUs of this machine that a run uses: how options name them, and which of them an engine gets.

They are counted through NVML. Nothing here opens a CUDA context: the process that starts the children must hold none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BeforeValidator

from pass_ops.errors import PassError

Index = Annotated[int, Ge(0)]
Card = Index | Literal["cpu"]
#: the cards of one engine, or of a whole node
Cards = tuple[int | Literal["cpu"], ...]
#: as options hold it: "all", cards, or groups of cards
GivenGpus = Literal["all"] | tuple[Card, ...] | tuple[tuple[Index, ...], ...]
_FORMS = 'it must be "all", a list of GPUs as [0, 1], or a list of groups as [[0, 1], [2, 3]]'


class GpuError(PassError, ValueError):
    """The GPUs that a run names are not on this machine, or cannot be divided into its engines."""


def read_gpus(value: Any) -> Any:
    """The option in its checked form: lists become tuples. Raises ValueError.

    >>> read_gpus([[0, 1], [2, 3]])
    ((0, 1), (2, 3))
    """
    if value is None or value == "all":
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"is {value!r}; {_FORMS}")
    grouped = isinstance(value[0], list | tuple)
    if any(isinstance(item, list | tuple) is not grouped for item in value):
        raise ValueError(f"mixes GPUs and groups of them ({value!r}); {_FORMS}")
    groups = [tuple(item) for item in value] if grouped else [tuple(value)]
    _check_groups(groups, grouped=grouped)
    named = [card for group in groups for card in group]
    for card in named:
        if card != "cpu" and (not isinstance(card, int) or isinstance(card, bool) or card < 0):
            raise ValueError(f'names {card!r}; a GPU is a whole number from 0 on, or "cpu" for a share of the cores')
        if card != "cpu" and named.count(card) > 1:
            raise ValueError(f"names GPU {card} twice; two engines would fight over its memory")
    if "cpu" in named and len(set(named)) > 1:
        raise ValueError(f"is {value!r}; engines on GPUs and on the CPU would not give the same results, so name one")
    return tuple(groups) if grouped else groups[0]


def _check_groups(groups: Sequence[tuple[Any, ...]], *, grouped: bool) -> None:
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1 or not sizes[0]:
        raise ValueError(f"has groups of {' and '.join(map(str, sizes))} GPUs; engines are alike, so groups must be")
    if grouped and any("cpu" in group for group in groups):
        raise ValueError('has groups of "cpu"; an engine on the CPU takes one share of the cores: list "cpu" N times')


Gpus = Annotated[GivenGpus, BeforeValidator(read_gpus, json_schema_input_type=GivenGpus)]


def count_gpus() -> int:
    """How many GPUs this process may use. By NVML (torch asks it first), so that no CUDA context is opened."""
    import torch

    return int(torch.cuda.device_count())


def node_cards(gpus: GivenGpus, *, count: int) -> Cards:
    """Every card that the option names, on a machine of `count` GPUs. Raises GpuError where one is not there.

    >>> node_cards("all", count=2), node_cards(((3, 2), (1, 0)), count=4)
    ((0, 1), (3, 2, 1, 0))
    """
    if gpus == "all":
        if not count:
            raise GpuError(
                'runner.gpus is "all", but NVML shows no GPU on this machine (or CUDA_VISIBLE_DEVICES hides them); '
                'check the driver with nvidia-smi, or name shares of the CPU as ["cpu", "cpu"]'
            )
        return tuple(range(count))
    cards: Cards = tuple(card for group in gpus for card in (group if isinstance(group, tuple) else (group,)))
    absent = [card for card in cards if card != "cpu" and card >= count]
    if absent:
        there = f"GPUs 0 to {count - 1}" if count > 1 else "GPU 0" if count else "no GPU"
        raise GpuError(f"runner.gpus names GPU {absent[0]}, but this machine shows {there}; name those that are there")
    return cards


def engine_cards(gpus: GivenGpus, *, each: int, count: int) -> tuple[Cards, ...]:
    """The cards of every engine of a node, `each` to an engine: the groups, or the named cards in order.

    Raises GpuError where the engines do not come out even.

    >>> engine_cards("all", each=2, count=8)
    ((0, 1), (2, 3), (4, 5), (6, 7))
    """
    cards = node_cards(gpus, count=count)
    if gpus != "all" and isinstance(gpus[0], tuple) and len(gpus[0]) != each:
        raise GpuError(
            f"runner.gpus has groups of {_gpus(len(gpus[0]))}, but an engine uses {each} (tensor_parallel_size times "
            "pipeline_parallel_size in its engine.extra); make the two equal, or list the GPUs without groups"
        )
    if len(cards) % each:
        raise GpuError(
            f"runner.gpus stands for {_gpus(len(cards))}, but an engine uses {each} (tensor_parallel_size times "
            f"pipeline_parallel_size in its engine.extra), which leaves {len(cards) % each} over; name a multiple of it"
        )
    return tuple(cards[start : start + each] for start in range(0, len(cards), each))


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def visible_devices(cards: Iterable[int | str], environment: Mapping[str, str] = os.environ) -> str:
    """CUDA_VISIBLE_DEVICES of a child that gets these cards: those this process would call by these numbers.

    >>> visible_devices([0, 2], {"CUDA_VISIBLE_DEVICES": "4,5,6"}), visible_devices(["cpu"], {})
    ('4,6', '')
    """
    outer = environment.get("CUDA_VISIBLE_DEVICES")
    names = outer.split(",") if outer else None
    return ",".join(str(card) if names is None else names[int(card)].strip() for card in cards if card != "cpu")
