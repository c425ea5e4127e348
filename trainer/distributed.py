"""One process or several under torchrun: what the ranks exchange, and how the model is sharded over them.

Nothing is configured: torchrun's environment (RANK, LOCAL_RANK, WORLD_SIZE) decides. A single process communicates with
nobody. Every rank reads the data and forms the same steps; of each step it feeds its share of the micro-batches, the
same number on each rank, because all ranks gather the sharded layers together. Only rank 0 writes, except for the
shards of the state.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """A process: its rank among `size` of them."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, error: Exception | None) -> None:
        """Raises the first error of any rank on every rank; one that stopped alone would leave the others waiting."""
        for found in self.gather(error):
            if found is not None:
                raise found

    def on_main(self, function: Callable[[], T]) -> T:
        """Calls `function` on rank 0; every rank returns its result, or raises its error."""
        if self.size == 1:
            return function()
        result: tuple[T | None, Exception | None] = (None, None)
        if self.is_main:
            try:
                result = (function(), None)
            except Exception as error:  # noqa: BLE001 - raised again, on every rank
                result = (None, error)
        shared: list[Any] = [result]
        dist.broadcast_object_list(shared, src=0)
        value, stopped = shared[0]
        if stopped is not None:
            raise stopped
        return value  # type: ignore[no-any-return]

    def share(self, items: Sequence[T], filler: T) -> list[T]:
        """Every size-th item from the rank-th on, padded with `filler` to the same number on each rank."""
        rounds = -(-len(items) // self.size)
        padded = [*items, *[filler] * (rounds * self.size - len(items))]
        return padded[self.rank :: self.size]


ALONE = World()


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """The world of this process. Joins torchrun's process group unless the caller has; at the end there is no process
    group that was not there before.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    before = dist.is_initialized()
    if size > 1 and device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if size > 1 and not before:
        dist.init_process_group(_backends())
    try:
        yield World(dist.get_rank(), size) if size > 1 else ALONE
    finally:
        if dist.is_initialized() and not before:
            dist.destroy_process_group()


def _backends() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def layers(model: Any) -> list[Any]:
    """The model's blocks, as transformers names them: what is sharded, recomputed and compiled one by one."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def shard(
    root: nn.Module, model: Any, *, device: torch.device, compute_dtype: torch.dtype, offload: bool = False
) -> None:
    """FSDP2 over all ranks, or over one: each block of `model` apart, the rest with `root`, whose forward is called.

    Only rank 0 need have weights: each block is broadcast, and cut, before the next one, so that another rank, whose
    tensors may be on the meta device, never holds more than its share and one block.

    Each rank holds its share of weights, gradients and optimizer state on `device`, or with `offload` in host memory. A
    block is gathered in compute_dtype for its forward and backward pass; gradients are summed over ranks in float32,
    not averaged, because the loss's denominators are the whole step's.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    if not dist.is_initialized():  # one process: FSDP2 asks for a group of it
        dist.init_process_group(_backends(), store=dist.HashStore(), rank=0, world_size=1)
    lower = None if compute_dtype == torch.float32 else compute_dtype
    how: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy(),
    }
    for module in [*layers(model), root]:
        _broadcast(module, device)
        fully_shard(module, **how)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def _broadcast(module: nn.Module, device: torch.device) -> None:
    """Gives every rank rank 0's values of what is not sharded yet, on `device`. Tied parameters stay tied."""
    if dist.get_world_size() == 1:
        return
    for parameter in module.parameters():
        if hasattr(parameter, "full_tensor"):
            continue
        if parameter.is_meta:
            torch.utils.swap_tensors(parameter, nn.Parameter(_empty(parameter, device), parameter.requires_grad))
        else:
            parameter.data = parameter.data.to(device)
        dist.broadcast(parameter.data, src=0)
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                there = _empty(buffer, device) if buffer.is_meta else buffer.to(device)
                dist.broadcast(there, src=0)
                part._buffers[name] = there


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all its shards; every rank must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
