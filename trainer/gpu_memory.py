"""How much memory a training run takes on each GPU, computed from the model's shape and the options.

`benchmarks/gpu_memory_table.py` prints the table of docs/explanation/measured/training.md from it.

P weights, A trained weights (A = P; with LoRA r (in + out) for each linear layer, on top of P), W GPUs, b bytes of the
compute type, T tokens of a micro-batch, D hidden size, I intermediate size, L blocks, E entries of a logits chunk:

    weights                           4 P / W;  LoRA: 4 (P + A) / W
    gradients, optimizer              (4 + s) A / W;  s = 8 (AdamW), 2 (8-bit; its scales left out)
    weights in the compute type       b P on one GPU (autocast keeps copies); on several, two blocks and everything
                                      outside the blocks, plus their float32 gradients before they are summed
    activations                       b T (D L + 8 D + 4 I) with gradient checkpointing: the input of each block, and
                                      one recomputed block; without it b T L (8 D + 4 I)
    logits                            4 E (4 float32 tensors of a chunk)

Fragmentation, the allocator's reserve and communication buffers are not included: keep a tenth of the memory free.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.options import TrainOptions

TOKENS = 8192  # the default of micro_batch_tokens on a GPU


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
        """Weights that are trained."""
        return self.blocks * sum(lora_rank * (a + b) for a, b in self.linears) if lora_rank else self.parameters


def state_bytes(shape: ModelShape, options: TrainOptions) -> int:
    """Bytes of weights, gradients and optimizer state, summed over all GPUs."""
    trained = shape.trained(options.lora_rank)
    weights = shape.parameters + (trained if options.lora_rank else 0)
    return 4 * weights + (4 + (8 if options.optimizer == "adamw" else 2)) * trained


def gpu_bytes(shape: ModelShape, options: TrainOptions, *, gpus: int) -> int:
    """Bytes on each of `gpus` GPUs, by the formula above."""
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
