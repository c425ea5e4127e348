"""Which model trains on how many GPUs: an estimate of the memory of each. `python -m trainer.fits` prints it.

P weights, of which A learn (all of them; or beside them LoRA's, r (in + out) for each linear layer), W GPUs, b bytes of
the compute type, T tokens of a micro-batch, D hidden size, I intermediate size, L blocks, E entries of a logits chunk:

    weights                           4 P / W;  LoRA: 4 (P + A) / W
    gradients, optimizer              (4 + s) A / W;  s = 8 (AdamW), 2 (8-bit; its scales left out)
    weights in the compute type       b P on one GPU (autocast keeps its copies); on several 2 blocks and what is not in
                                      a block, and float32 gradients of the same before they are summed
    activations                       b T (D L + 8 D + 4 I): the input of each block, and one block computed again
                                      (gradient checkpointing); without it b T L (8 D + 4 I)
    logits                            4 E (4 float32 tensors of a chunk)

Fragmentation, the allocator's reserve and the communication library's buffers are not in it: keep a tenth free.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import TrainOptions

GIB = 2**30
GPUS = (1, 2, 4, 8, 16, 32)
TOKENS = 8192  # micro_batch_tokens on a GPU


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder with gated MLPs and grouped-query attention."""

    hidden: int
    intermediate: int
    blocks: int
    vocabulary: int
    heads: int
    kv_heads: int
    tied: bool = False
    attention_bias: bool = True  # Qwen2: of queries, keys and values

    @property
    def key_value(self) -> int:
        """Width of keys, and of values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a block's linear layers: queries, output, keys, values, gate, up, down."""
        d, i, k = self.hidden, self.intermediate, self.key_value
        return (d, d), (d, d), (d, k), (d, k), (d, i), (d, i), (i, d)

    @property
    def block(self) -> int:
        """Weights of one block: linear layers, biases, two norms."""
        bias = self.hidden + 2 * self.key_value if self.attention_bias else 0
        return sum(a * b for a, b in self.linears) + bias + 2 * self.hidden

    @property
    def outside(self) -> int:
        """Weights of embedding, head and last norm."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.blocks * self.block + self.outside

    def trained(self, lora_rank: int) -> int:
        """Weights that learn."""
        return self.blocks * sum(lora_rank * (a + b) for a, b in self.linears) if lora_rank else self.parameters


# From the config.json of each model.
MODELS = {
    "Qwen2.5-0.5B": ModelShape(
        hidden=896, intermediate=4864, blocks=24, vocabulary=151936, heads=14, kv_heads=2, tied=True
    ),
    "Qwen2.5-1.5B": ModelShape(
        hidden=1536, intermediate=8960, blocks=28, vocabulary=151936, heads=12, kv_heads=2, tied=True
    ),
    "Qwen2.5-7B": ModelShape(hidden=3584, intermediate=18944, blocks=28, vocabulary=152064, heads=28, kv_heads=4),
    "Qwen2.5-14B": ModelShape(hidden=5120, intermediate=13824, blocks=48, vocabulary=152064, heads=40, kv_heads=8),
    "Qwen2.5-32B": ModelShape(hidden=5120, intermediate=27648, blocks=64, vocabulary=152064, heads=40, kv_heads=8),
    "Qwen2.5-72B": ModelShape(hidden=8192, intermediate=29568, blocks=80, vocabulary=152064, heads=64, kv_heads=8),
}


def state_bytes(shape: ModelShape, options: TrainOptions) -> int:
    """Weights, gradients and optimizer state of all GPUs together."""
    trained = shape.trained(options.lora_rank)
    weights = shape.parameters + (trained if options.lora_rank else 0)
    return 4 * weights + (4 + (8 if options.optimizer == "adamw" else 2)) * trained


def gpu_bytes(shape: ModelShape, options: TrainOptions, *, gpus: int) -> int:
    """Memory of each of `gpus` GPUs, by the formula above."""
    b = 4 if options.compute_dtype == "float32" else 2
    tokens = options.micro_batch_tokens or TOKENS
    share = shape.trained(options.lora_rank) / shape.parameters
    if gpus == 1:
        gathered = b * shape.parameters if b == 2 else 0
    else:
        gathered = int((b + 4 * share) * (2 * shape.block + shape.outside))
    inside = 8 * shape.hidden + 4 * shape.intermediate
    kept = shape.hidden * shape.blocks + inside if options.gradient_checkpointing else inside * shape.blocks
    return state_bytes(shape, options) // gpus + gathered + b * tokens * kept + 16 * options.logits_elements


def table(options: TrainOptions, *, memory_gib: float = 80.0) -> str:
    """GiB of each GPU by model and number of GPUs, in Markdown; bold where nine tenths of memory_gib hold it."""
    lines = ["| model | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS) + " |", "| --- " * 7 + "|"]
    for name, shape in MODELS.items():
        sizes = [gpu_bytes(shape, options, gpus=n) / GIB for n in GPUS]
        cells = [f"**{size:.0f}**" if size <= 0.9 * memory_gib else f"{size:.0f}" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables of docs/training.md."""
    for rank in (0, 16):
        print(f"\nlora_rank = {rank}\n")
        print(table(TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=rank)))


if __name__ == "__main__":
    main()
