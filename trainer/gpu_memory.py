"""What a model takes on each GPU, as the policy's engine, a PRM, a teacher or in training: arithmetic, without torch.

`--dry-run` prints it, errors quote it, and docs/explanation/measured/training.md shows its tables
(`benchmarks/gpu_memory_table.py`). Names are bytes unless they say otherwise.

Training. P weights, w bytes of each (`weights_dtype`), A trained weights (A = P; with LoRA r (in + out) for each linear
layer, in float32 on top of P), W GPUs, b bytes of the compute type, T tokens of a micro-batch, D hidden size, I inner
size of an MLP, L blocks, E entries of a logits chunk:

    weights                           w P / W;  LoRA: (w P + 4 A) / W;  in host memory with cpu_offload
    gradients                         4 A / W, likewise
    optimizer                         s A / W, likewise;  s = 8 (AdamW), 2 (8-bit; its scales left out)
    copies in the compute type        unsharded: b P where w > b (autocast keeps copies; with LoRA and checkpointing
                                      only those of one block and outside the blocks), else none; sharded or offloaded:
                                      two blocks and everything outside the blocks, and their float32 gradients
    activations                       b T (D L + 8 D + 4 I) with gradient checkpointing: the input of each block, and
                                      one recomputed block; without it b T L (8 D + 4 I)
    logits                            4 E (4 float32 tensors of a chunk)

An engine. u share of the card that vLLM may take, B tokens of a batch, S sequences, K width of keys plus values over
all layers, M longest sequence:

    weights                           b P / W
    activations                       b B (4 D + 3 I) and 8 max(S, 1024) V for the logits, V vocabulary
    graphs                            1 GiB assumed
    keys and values                   b K M / W at least; vLLM takes all that u leaves

Fragmentation, the allocator's reserve and communication buffers are not included: a tenth of the card stays free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.options import TrainOptions

TOKENS = 8192  # the default of micro_batch_tokens on a GPU
GIB = 2**30
USABLE = 0.9  # of a card
GRAPHS = GIB  # of an engine's CUDA graphs: assumed
LORA_RANK = 16  # the adapter that is proposed
MORE_GPUS = (2, 4, 8, 16)
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BLOCK = re.compile(r"^(.*?)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder's sizes. parameters: all. block: of the largest block. outside: outside the blocks.

    inner: width that an MLP computes for a token. lora_width: in + out summed over the linear layers that an adapter
    gets. key_value: width of a token's keys and values over all layers.
    """

    parameters: int
    block: int
    outside: int
    blocks: int
    hidden: int
    inner: int
    vocabulary: int
    lora_width: int
    key_value: int

    def trained(self, lora_rank: int) -> int:
        """Weights that are trained."""
        return lora_rank * self.lora_width if lora_rank else self.parameters


def model_shape(config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]]) -> ModelShape:
    """From a model folder's config.json and the shapes of its tensors (each tied one once).

    Blocks are the longest run of numbered modules; the embedding is the largest matrix outside them. Raises ValueError
    where there are no tensors.
    """
    text = {**config, **(config.get("text_config") or {})}
    sizes = {name: math.prod(shape) for name, shape in tensors.items()}
    if not sizes:
        raise ValueError("a model without tensors has no size")
    stack, blocks = _blocks(sizes)
    inside = {name for name in tensors if name.startswith(f"{stack}.")} if blocks else set()
    matrices = {name: shape for name, shape in tensors.items() if len(shape) == 2}
    embedding = max((shape for name, shape in matrices.items() if name not in inside), key=math.prod, default=(1, 1))
    hidden = int(_first(text, "hidden_size", "n_embd", "d_model", "dim") or min(embedding))
    heads = int(_first(text, "num_attention_heads", "n_head", "num_heads", "n_heads") or 1)
    kv_heads = int(_first(text, "num_key_value_heads", "num_kv_heads") or heads)
    head = int(text.get("head_dim") or hidden // heads)
    return ModelShape(
        parameters=sum(sizes.values()),
        block=max(blocks.values(), default=0),
        outside=sum(sizes.values()) - sum(blocks.values()),
        blocks=len(blocks),
        hidden=hidden,
        inner=_inner(text, hidden),
        vocabulary=max(embedding),
        lora_width=sum(sum(shape) for name, shape in matrices.items() if name in inside and ".experts." not in name),
        key_value=2 * kv_heads * head * len(blocks),
    )


def _blocks(sizes: Mapping[str, int]) -> tuple[str, dict[int, int]]:
    """The stack of numbered modules that holds most weights, and the weights of each of its modules."""
    stacks: dict[str, dict[int, int]] = {}
    for name, size in sizes.items():
        if found := _BLOCK.match(name):
            stack, number = stacks.setdefault(found[1], {}), int(found[2])
            stack[number] = stack.get(number, 0) + size
    return max(stacks.items(), key=lambda item: sum(item[1].values()), default=("", {}))


def _inner(text: Mapping[str, Any], hidden: int) -> int:
    if experts := _first(text, "num_experts_per_tok", "moe_topk", "moe_k"):
        shared = int(text.get("n_shared_experts") or 0) + int(experts)
        return shared * int(_first(text, "moe_intermediate_size", "intermediate_size") or 4 * hidden)
    inner = _first(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden
    return int(max(inner) if isinstance(inner, (list, tuple)) else inner)


def _first(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name)), None)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What each GPU holds, by name; host: what this process holds in host memory instead."""

    parts: Mapping[str, int]
    host: int = 0

    @property
    def total(self) -> int:
        """Bytes on each GPU."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size)
        return f"{self.total / GIB:.0f} GiB ({listed})"


def training(shape: ModelShape, options: TrainOptions, *, gpus: int = 1) -> Holding:
    """What training holds on each of `gpus` GPUs, by the formula above."""
    trained = shape.trained(options.lora_rank)
    weights = _BYTES[options.weights_dtype] * shape.parameters + (4 * trained if options.lora_rank else 0)
    state = {
        "weights": weights // gpus,
        "gradients": 4 * trained // gpus,
        "optimizer": (8 if options.optimizer == "adamw" else 2) * trained // gpus,
    }
    compute = _BYTES[options.compute_dtype or "float32"]
    tokens = options.micro_batch_tokens or TOKENS
    inside = 8 * shape.hidden + 4 * shape.inner
    kept = shape.hidden * shape.blocks + inside if options.gradient_checkpointing else inside * shape.blocks
    working = {
        "copies": _copies(shape, options, compute=compute, sharded=gpus > 1 or options.cpu_offload),
        "activations": compute * tokens * kept,
        "logits": 16 * options.logits_elements,
    }
    if options.cpu_offload:
        return Holding(parts=working, host=sum(state.values()))
    return Holding(parts=state | working)


def _copies(shape: ModelShape, options: TrainOptions, *, compute: int, sharded: bool) -> int:
    if sharded:
        share = shape.trained(options.lora_rank) / shape.parameters
        return int((compute + 4 * share) * (2 * shape.block + shape.outside))
    if compute >= _BYTES[options.weights_dtype]:
        return 0
    alone = options.lora_rank and options.gradient_checkpointing  # frozen weights are in no cache of autocast's
    return compute * (shape.block + shape.outside if alone else shape.parameters)


def engine(
    shape: ModelShape,
    *,
    dtype: str,
    longest: int,
    gpus: int = 1,
    batched_tokens: int = TOKENS,
    sequences: int = 256,
    pooling: bool = False,
) -> Holding:
    """The least that an engine needs on each GPU of a tensor-parallel group to serve its longest sequence."""
    size = _BYTES[dtype]
    inside = size * batched_tokens * (4 * shape.hidden + 3 * shape.inner)
    logits = 0 if pooling else 8 * max(sequences, 1024) * shape.vocabulary
    return Holding(
        parts={
            "weights": size * shape.parameters // gpus,
            "activations": inside + logits,
            "graphs": 0 if pooling else GRAPHS,
            "keys and values": size * shape.key_value * longest // gpus,
        }
    )


def usable(card: int) -> int:
    """Bytes of a card that may be planned with."""
    return int(USABLE * card)


@dataclass(frozen=True, kw_only=True)
class Way:
    """Changed options, or more GPUs, with which an update fits."""

    changes: Mapping[str, Any]
    gpus: int
    holding: Holding

    def __str__(self) -> str:
        options = ", ".join(f"{name} = {_toml(value)}" for name, value in self.changes.items())
        gpus = f"{self.gpus} GPUs" if self.gpus > 1 else ""
        host = f", {self.holding.host / GIB:.0f} GiB of host memory a process" if self.holding.host else ""
        where = " and ".join(part for part in (gpus, options) if part)
        return f"{where} ({self.holding.total / GIB:.0f} GiB a GPU{host})"


def ways_to_fit(shape: ModelShape, options: TrainOptions, *, gpus: int = 1, limit: int | None = None) -> list[Way]:
    """What makes an update fit into `limit` bytes on each GPU (None: what makes it smaller), mildest first.

    bfloat16 and gradient checkpointing, which change no option of the method, are part of every proposal.
    """
    now = training(shape, options, gpus=gpus).total
    ways = []
    for changes, number in _proposals(options, gpus):
        holding = training(shape, replace(options, **changes), gpus=number)
        if holding.total <= limit if limit is not None else holding.total < now:
            different = {name: value for name, value in changes.items() if getattr(options, name) != value}
            ways.append(Way(changes=different, gpus=number if number != gpus else 1, holding=holding))
    return ways


def _proposals(options: TrainOptions, gpus: int) -> Iterator[tuple[dict[str, Any], int]]:
    mild: dict[str, Any] = {"compute_dtype": "bfloat16", "gradient_checkpointing": True, "share_prompts": False}
    yield mild, gpus
    tokens, elements = options.micro_batch_tokens or TOKENS, options.logits_elements
    yield {**mild, "micro_batch_tokens": max(1, tokens // 4), "logits_elements": max(1, elements // 4)}, gpus
    small = {**mild, "optimizer": "adamw_8bit"}
    if not options.lora_rank:
        yield small, gpus
        yield {**small, "weights_dtype": "bfloat16"}, gpus
    yield {**mild, "cpu_offload": True}, gpus
    yield {**mild, "lora_rank": options.lora_rank or LORA_RANK, "weights_dtype": "bfloat16"}, gpus
    for more in MORE_GPUS:
        if more > gpus:
            yield mild, more


def does_not_fit(what: str, holding: Holding, *, limit: int | None, ways: Sequence[Way]) -> str:
    """The sentences for an update that does not fit: what it needs, what there is, and what helps."""
    there = "" if limit is None else f", of which {limit / GIB:.0f} GiB can be used"
    if not ways:
        remedy = "No option makes it fit: take a smaller model, larger GPUs or more than 16 of them."
    elif limit is None:
        remedy = f"It takes less with {'; or with '.join(map(str, ways))}."
    else:
        remedy = f"It fits with {'; or with '.join(map(str, ways))}."
    return f"{what} needs about {holding} on each GPU{there}. {remedy}"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
