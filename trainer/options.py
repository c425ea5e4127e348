"""The options of one training run. Defaults are the paper's QA settings (App. E) where it gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AllowInfNan, Strict

from trainer.errors import TrainOptionError
from trainer.option_class import AtLeastOne, Positive, options

# These change a run's speed, memory or storage, not its result (those of the first two lines: up to rounding), so a run
# may be resumed with other values.
OPERATIONAL = frozenset(
    {"micro_batch_tokens", "logits_elements", "gradient_checkpointing", "layout", "share_prompts", "head", "head_dtype",
     "deterministic", "compile_layers", "cpu_offload",
     "prefetch_steps", "decode_threads", "save_every", "keep_checkpoints", "tensorboard", "tracker", "tracker_project",
     "peak_tflops"}
)  # fmt: skip
# Options added later, and the value at which a run is what it was before: its folder does not name them then.
LATER = {"weights_dtype": "float32"}
DEFAULT_BATCH_SIZE = 128

Unit = Literal["group", "rollout"]
Loss = Literal["clip", "gspo", "cispo", "policy_gradient", "next_token"]
KlEstimator = Literal["k1", "k2", "k3", "abs"]
Aggregation = Literal["rollout_mean", "token_mean", "constant"]
ImportanceLevel = Literal["token", "sequence"]
RejectLevel = Literal["token", "sequence", "geometric", "veto"]

Dtype = Literal["float32", "bfloat16"]

NotNegative = Annotated[float, Ge(0)]
PositiveOrInf = Annotated[float, Gt(0), AllowInfNan(True)]
Beta = Annotated[float, Ge(0), Lt(1)]


@options(TrainOptionError)
class TrainOptions:
    """What one call of `train` does with its data. Raises TrainOptionError."""

    seed: Annotated[int, Ge(0)] = 0
    """Seed of the data order and of a new LoRA adapter's random weights; nothing else in training is random."""
    unit: Unit = "group"
    """What a step is made of: whole groups, or single rollouts shuffled independently of their group."""
    batch_size: AtLeastOne | None = None
    """Units per optimizer step (default: 128 where updates is not set either). Example: 64."""
    updates: Annotated[int, Ge(1), Le(10_000_000)] | None = None
    """Optimizer steps of this call, spread evenly over the epochs. Set this or batch_size, not both. Example:
    16."""
    epochs: Annotated[int, Ge(1), Le(100_000)] = 1
    """Passes over the data. The order of all steps is made at the start, so there are at most 100000."""
    shuffle_tokens: AtLeastOne = 2**25
    """Tokens of a shuffle window: parts are shuffled, then units within windows of whole parts of about this size."""

    zero_advantage: Literal["keep", "drop"] = "keep"
    """Whether units in which every advantage is 0 are trained on; keep leaves them in the denominators."""
    max_length: AtLeastOne | None = None
    """Longest rollout in tokens, prompt included (default: the model's context). Example: 4096."""
    too_long: Literal["keep", "mask", "drop"] = "keep"
    """What happens to rollouts longer than max_length: keep (refused beyond the model's context), mask (they stay in
    the step's denominators but add nothing), or drop."""
    min_round: int | None = None
    """Rollouts sampled in earlier rounds than this are dropped (default: none is). Example: 2."""
    off_policy: Literal["refuse", "accept"] = "refuse"
    """Whether rollouts sampled by another policy than the one being trained are accepted."""
    truncated_sampling: Literal["refuse", "accept"] = "refuse"
    """Whether rollouts sampled with top_p, top_k or min_p are trained on as if drawn from the full vocabulary."""
    imported_logprobs: Literal["refuse", "accept"] = "refuse"
    """Whether rounded or recomputed log-probabilities of imported rollouts are taken for the sampler's exact ones."""

    loss: Loss = "clip"
    """The surrogate: clip (PPO/GRPO, the paper's), gspo, cispo, policy_gradient, or next_token, which is supervised and
    imitates every rollout whatever its advantage."""
    clip_low: Annotated[float, Ge(0), Le(1)] = 0.2
    """The ratio of new to old policy is clipped from below at 1 - clip_low."""
    clip_high: NotNegative = 0.2
    """The ratio of new to old policy is clipped from above at 1 + clip_high."""
    dual_clip: Annotated[float, Gt(1)] | None = None
    """Bounds the loss of a token of negative advantage A at -dual_clip * A; loss clip only. Example: 3.0."""
    kl_coef: NotNegative = 0.0
    """Weight of the KL penalty towards the reference (beta); 0 needs no reference signal. Example: 0.001."""
    kl_estimator: KlEstimator = "k3"
    """How the KL divergence is estimated from one sample per token (`trainer.losses.kl`); k3 is the paper's."""
    entropy_coef: NotNegative = 0.0
    """Weight of the entropy bonus."""
    aggregation: Aggregation = "rollout_mean"
    """How token losses become one number: rollout_mean (mean over a rollout's unmasked tokens, then over rollouts; the
    paper's), token_mean, or constant (sum divided by rollouts * aggregation_constant)."""
    aggregation_constant: Positive | None = None
    """Tokens per rollout that aggregation constant divides by, usually the longest a completion may be. Example:
    1024.0."""

    old_policy: Literal["behavior", "recompute"] = "behavior"
    """What the ratio is relative to: behavior, the sampler's stored log-probabilities; recompute, those of the policy
    before the first update of this call, computed once in a pass over the data."""
    max_mismatch: Annotated[float, Gt(1)] | None = None
    """With old_policy recompute: the run stops before its first update where the mean over tokens of
    exp|log old - log behavior| exceeds this (1 = no mismatch). Example: 1.1."""
    importance: Literal["none", ImportanceLevel] = "none"
    """Importance weights, the ratio of trained policy to sampler: per token, or their product over a rollout. With
    old_policy behavior only for loss policy_gradient; the other losses contain that ratio already."""
    importance_cap: PositiveOrInf | None = None
    """Importance weights are truncated at this (inf = never). Example: 2.0 (TIS)."""
    reject: Literal["none", RejectLevel] = "none"
    """Which ratio to the sampler must lie in [reject_low, reject_high]: each token's, the rollout's product (sequence),
    its geometric mean, or every single token's (veto). What is rejected adds nothing and stays in the denominators."""
    reject_low: NotNegative | None = None
    """Smallest ratio that is not rejected. Example: 0.5 (IcePop)."""
    reject_high: PositiveOrInf | None = None
    """Largest ratio that is not rejected (inf = no upper limit). Example: 5.0 (IcePop)."""

    lora_rank: Annotated[int, Ge(0)] = 0
    """0 trains every weight. Above 0: only LoRA adapters of this rank in all linear layers but the head are trained,
    and the export is an adapter in peft's format (extra `lora`). Example: 16."""
    lora_alpha: AtLeastOne | None = None
    """The adapter is scaled by lora_alpha / lora_rank (default: twice the rank). Example: 32."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW in one fused kernel, or torchao's AdamW with 8-bit state (extra `adamw8bit`)."""
    lr: Positive = 1e-6
    """Peak learning rate."""
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    adam_eps: Positive = 1e-8
    """AdamW's epsilon, added to the denominator."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    warmup_steps: Annotated[int, Ge(0)] = 20
    """Updates over which lr rises linearly from 0, counted over all rounds."""
    decay_share: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of this call's steps, at its end, over which lr falls linearly to 0 (0 = it stays constant)."""
    grad_clip: NotNegative = 1.0
    """Global gradient norm above which gradients are scaled down (0 = never)."""
    stop_ratio: PositiveOrInf = 1e4
    """The run stops before an update in which a token of nonzero advantage has a larger ratio (inf = never)."""
    stop_grad_norm: PositiveOrInf = 1e6
    """The run stops before an update whose gradient norm before clipping is larger (inf = never)."""

    layout: Literal["auto", "pad", "pack"] = "auto"
    """How rollouts share a forward pass: pad (rows of similar length), pack (one row without padding, attention never
    crosses rollouts), or auto: pack where attention is varlen or another flash attention, else
    pad."""
    share_prompts: bool = False
    """Computes each prompt once per step and shares it between its rollouts (layout pad, one process); pays off for
    prompts longer than their completions."""
    micro_batch_tokens: AtLeastOne | None = None
    """Tokens of one forward pass, padding included; a longer rollout goes alone (default: 8192, or 2048 on a CPU, which
    fits its caches). Example: 16384."""
    compute_dtype: Dtype | None = None
    """Type of the forward and backward pass (default: bfloat16 on a GPU and with weights_dtype bfloat16, else
    float32). Example: "bfloat16"."""
    weights_dtype: Dtype = "float32"
    """Type in which weights are held; gradients are float32 in any case. bfloat16 halves their memory. Under LoRA it is
    that of the frozen model, and the adapter stays float32; else updates are rounded stochastically, which takes
    optimizer adamw_8bit and one device."""
    head: Literal["chunked", "fused"] = "chunked"
    """How log-probabilities are computed: in chunks of logits_elements, or by liger-kernel's fused Triton kernel (a
    GPU, extra `liger`; it computes no entropy)."""
    head_dtype: Literal["float32", "compute"] | None = None
    """Type of the logits: float32 sums (the weights stay those of compute_dtype), or compute_dtype's (default: float32
    on a GPU, compute on a CPU). The sampler should do the same. Example: "float32"."""
    logits_elements: AtLeastOne = 2**26
    """Largest number of elements of a [tokens, vocabulary] tensor of logits held at a time."""
    attention: str = "auto"
    """transformers' name of the attention implementation; or varlen, torch's own kernels for packed rollouts (a GPU,
    bfloat16); or auto: varlen on one GPU where it computes the model, else sdpa, and eager for a model of which sdpa
    would leave a part out. Example: "sdpa"."""
    gradient_checkpointing: bool | None = None
    """Recomputes layers in the backward pass instead of keeping their activations (default: on a GPU where the update
    would not fit without, never on a CPU). Example: true."""
    cpu_offload: bool = False
    """Keeps weights, gradients and optimizer state in host memory, with one GPU or several; each block is copied to the
    GPU for its forward and backward pass, and the optimizer runs on the CPU."""
    compile_layers: bool = False
    """Compiles each layer (torch.compile): some minutes at the start, fewer and faster kernels afterwards."""
    deterministic: bool | None = None
    """Takes deterministic kernels only, and stops where there is none (default: off on a GPU, where they are slower; on
    a CPU on, and no kernel is missing). Example: true."""
    device: str = "auto"
    """torch's name of the device; auto takes a GPU where there is one. Example: "cpu"."""
    export_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the exported weights; auto keeps the policy folder's own."""

    prefetch_steps: Annotated[int, Ge(1), Le(1024)] = 2
    """Steps whose data is read ahead of use; it is held in memory, so at most 1024."""
    decode_threads: Annotated[int, Ge(1), Le(1024)] = 2
    """Threads that read and decode parts of the data; at least 16 where the data lie on an object store, for which they
    mostly wait."""
    save_every: Annotated[int, Ge(0)] = 50
    """Steps between checkpoints (0 = only at the end)."""
    keep_checkpoints: AtLeastOne = 2
    """How many of the newest checkpoints are kept."""
    tensorboard: bool = True
    """Whether TensorBoard events are written beside metrics.jsonl."""
    tracker: Literal["none", "trackio", "wandb"] = "none"
    """Library that gets the same metrics (extra of that name); its own settings, such as WANDB_MODE, say where to."""
    tracker_project: str = "passrl"
    """Project the tracker files the run under."""
    peak_tflops: Positive | None = None
    """The device's peak TFLOP/s in compute_dtype, for the MFU (default: known for common GPUs). Example: 989.0."""

    def __post_init__(self) -> None:
        conflicts = [*self._step_conflicts(), *self._correction_conflicts(), *self._next_token_conflicts()]
        if conflicts:
            raise TrainOptionError("\n  ".join(conflicts))

    def _step_conflicts(self) -> Iterator[str]:
        if self.batch_size is not None and self.updates is not None:
            yield f"batch_size {self.batch_size} and updates {self.updates} both set the number of steps; set one"
        if self.updates is not None and self.updates < self.epochs:
            yield f"updates {self.updates} is below epochs {self.epochs}; an epoch has at least one step"
        if self.dual_clip is not None and self.loss != "clip":
            yield f"dual_clip is {self.dual_clip}, which only loss 'clip' uses; loss is {self.loss!r}"
        if (self.aggregation == "constant") != (self.aggregation_constant is not None):
            yield "aggregation 'constant' and aggregation_constant go together; set both or neither"
        if self.share_prompts and (self.layout == "pack" or self.gradient_checkpointing):
            yield (
                "share_prompts needs layout 'pad' and no gradient_checkpointing (which keeps no keys and values); set "
                "it to false, or change those"
            )
        if self.share_prompts and self.attention == "varlen":
            yield "attention 'varlen' cannot continue from a shared prompt; set attention to 'auto'"
        if self.head == "fused" and self.entropy_coef:
            yield "head 'fused' computes no entropy; set entropy_coef to 0, or head to 'chunked'"
        if self.weights_dtype == "bfloat16" and not self.lora_rank and self.optimizer != "adamw_8bit":
            yield (
                "weights_dtype 'bfloat16' without LoRA needs stochastic rounding, which only optimizer 'adamw_8bit' "
                "does: plain rounding would lose small updates. Set optimizer, or lora_rank"
            )
        if self.weights_dtype == "bfloat16" and not self.lora_rank and self.cpu_offload:
            yield "cpu_offload adds gradients up in the type of the weights; set weights_dtype to 'float32'"
        if self.weights_dtype == "bfloat16" and self.compute_dtype == "float32":
            yield "weights_dtype 'bfloat16' cannot be computed with in float32; set compute_dtype to 'bfloat16'"

    def _correction_conflicts(self) -> Iterator[str]:
        if (self.importance != "none") != (self.importance_cap is not None):
            yield "importance and importance_cap (inf = no truncation) go together; set both or neither"
        low, high = self.reject_low, self.reject_high
        if {self.reject == "none"} != {low is None, high is None}:
            yield "reject, reject_low and reject_high go together; set all three or none"
        if low is not None and high is not None and not low < high:
            yield f"reject_low {low} and reject_high {high} are not a range; reject_low must be the smaller one"
        if self.importance != "none" and self.old_policy == "behavior" and self.loss != "policy_gradient":
            yield (
                f"importance {self.importance!r} with old_policy 'behavior' would apply the ratio to the sampler "
                f"twice: loss {self.loss!r} contains it. Set old_policy to 'recompute' or loss to 'policy_gradient', "
                "or use reject"
            )
        if self.max_mismatch is not None and self.old_policy != "recompute":
            yield f"max_mismatch is {self.max_mismatch}, but only old_policy 'recompute' measures the mismatch"

    def _next_token_conflicts(self) -> Iterator[str]:
        off = {"kl_coef": 0, "entropy_coef": 0, "old_policy": "behavior", "importance": "none", "reject": "none"}
        for name, value in off.items():
            if self.loss == "next_token" and getattr(self, name) != value:
                yield f"{name} is {getattr(self, name)!r}; loss 'next_token' uses no {name}, set it to {value!r}"

    def semantic(self) -> dict[str, Any]:
        """The options that decide the result, by name, as JSON values: what resuming compares."""
        values = asdict(self) | {"betas": list(self.betas)}
        return {
            name: value
            for name, value in values.items()
            if name not in OPERATIONAL and not (name in LATER and value == LATER[name])
        }
