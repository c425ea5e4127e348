"""The options of one training run. Defaults are the paper's QA settings (App. E) where it gives them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from trainer.errors import TrainOptionError

CHOICES: dict[str, tuple[str, ...]] = {
    "unit": ("group", "rollout"),
    "zero_advantage": ("keep", "drop"),
    "too_long": ("keep", "mask", "drop"),
    "off_policy": ("refuse", "accept"),
    "truncated_sampling": ("refuse", "accept"),
    "layout": ("auto", "pad", "pack"),
    "loss": ("clip", "gspo", "cispo", "policy_gradient", "next_token"),
    "kl_estimator": ("k1", "k2", "k3", "abs"),
    "old_policy": ("behavior", "recompute"),
    "importance": ("none", "token", "sequence"),
    "reject": ("none", "token", "sequence", "geometric", "veto"),
    "aggregation": ("rollout_mean", "token_mean", "constant"),
    "optimizer": ("adamw", "adamw_8bit"),
    "head": ("chunked", "fused"),
    "compute_dtype": ("float32", "bfloat16"),
    "tracker": ("none", "trackio", "wandb"),
    "export_dtype": ("auto", "float32", "bfloat16", "float16"),
}
# These change the speed, the memory or the storage of a run, never what it computes, the first six but for rounding; a
# run may be resumed with others.
OPERATIONAL = frozenset(
    {"micro_batch_tokens", "logits_elements", "gradient_checkpointing", "layout", "share_prompts", "head",
     "prefetch_steps", "decode_threads", "save_every", "keep_checkpoints", "tensorboard", "tracker", "tracker_project",
     "peak_tflops"}
)  # fmt: skip
LEAST = {
    **dict.fromkeys(("epochs", "shuffle_tokens", "logits_elements"), 1),
    **dict.fromkeys(("prefetch_steps", "decode_threads", "keep_checkpoints"), 1),
    **dict.fromkeys(("seed", "clip_low", "clip_high", "kl_coef", "entropy_coef"), 0),
    **dict.fromkeys(("weight_decay", "warmup_steps", "grad_clip", "save_every", "lora_rank"), 0),
}
DEFAULT_BATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What one call of `train` does with its data.

    Order. unit: what a step is made of, whole groups or free rollouts. batch_size: units a step (128 where neither it
    nor updates is given). updates: optimizer steps of this call instead, dealt evenly to the epochs. shuffle_tokens:
    units are shuffled within windows of whole parts of about so many tokens (at least one part), the parts too.

    Filters, before the order is formed. zero_advantage: drop units whose every advantage is 0. max_length: prompt plus
    completion tokens (default: the model's context); what is longer is kept (refused where it is beyond the context),
    masked (stays in its step and the denominators, adds nothing) or dropped. min_round: older rollouts are dropped.

    Loss (`trainer.losses`). loss: clip (the paper's), gspo, cispo, policy_gradient, next_token (supervised: imitates
    every rollout, whatever its advantage; no KL, entropy or correction with it). clip_low, clip_high: the ratio is
    clipped to [1 - clip_low, 1 + clip_high]; dual_clip c bounds the loss of a bad token by -c A (clip only). kl_coef:
    weight beta of the KL penalty by kl_estimator; 0 needs no reference. entropy_coef: weight of the entropy bonus.
    aggregation: rollout_mean (mean over a rollout's unmasked tokens, then over rollouts;
    the paper's), token_mean, or constant (sum over tokens / (rollouts * aggregation_constant)). truncated_sampling:
    accept = train on rollouts sampled with top_p, top_k or min_p as if they had been drawn from the full vocabulary.
    off_policy: accept = rollouts of another policy than the one trained.

    Off-policy corrections (`trainer.losses.corrections`). old_policy: what the ratio is taken to; behavior = the stored
    log-probabilities of the sampler (two policies: bypass), recompute = those of the policy before the first update of
    this call, computed once by one pass over the data and kept in the run's folder (three policies: decoupled). That
    pass measures the mismatch, mean over tokens of exp|log old - log behavior|; above max_mismatch the run stops before
    its first update. importance: weights by the ratio to the sampler, per token or the rollout's product, truncated at
    importance_cap (inf = plain); under old_policy behavior only with loss policy_gradient, the others hold that ratio
    already. reject: tokens or rollouts whose ratio lies outside [reject_low, reject_high] add nothing and stay in the
    denominators; token, sequence (product), geometric (exp of the mean), veto (any token). Published settings:
    TIS importance token, cap 2; masked weights (MIS) importance token, cap inf, reject token [0, 2]; IcePop the same
    with [0.5, 5]; sequence mask importance and reject sequence; geometric mask reject geometric [0.99, 1.01].

    LoRA (`trainer.lora`). lora_rank: 0 trains every weight; above, adapters of this rank in all linear layers but the
    head, scaled by lora_alpha / lora_rank (lora_alpha: default twice the rank). The export is then an adapter in peft's
    format, whose adapter_config.json names the base model's folder.

    Optimizer. AdamW (optimizer: adamw, one fused kernel; adamw_8bit, torchao's with 8-bit state), lr rising linearly
    over warmup_steps updates (counted over rounds), then constant, and falling linearly to 0 over the last decay_share
    of this call's steps (0 = it stays); grad_clip: the largest global gradient norm (0 = off). A run stops, its state
    kept, before an update with a token ratio above stop_ratio (and advantage other than 0) or a gradient norm before
    clipping above stop_grad_norm (inf = never); what is NaN or infinite always stops it.

    Machine. layout: pad (length buckets), pack (one row, attention never crosses rollouts), auto = pack where attention
    is a flash attention, whose cost does not grow with what else is in the row. micro_batch_tokens: tokens of one
    forward pass, padding included; a longer rollout goes alone (default 8192, on a CPU 2048, which its caches like
    better). share_prompts: a prompt that several rollouts of a step have is computed once and read by all of them
    (layout pad, one process); pays more the longer prompts are. compute_dtype: of the forward and backward pass
    (bfloat16 by autocast); weights, gradients and optimizer state are float32. head: how log-probabilities are formed;
    chunked, a [tokens, vocabulary] tensor of at most logits_elements entries at a time, or fused, liger-kernel's Triton
    kernel (a GPU, extra `liger`; no entropy). gradient_checkpointing: layers are computed again in the backward pass
    rather than kept. attention: transformers' name. export_dtype: of the exported weights, auto = the policy folder's
    own.

    Saving. save_every: steps between checkpoints (0 = only at the end); the newest keep_checkpoints stay.

    Watching (`trainer.metrics`). tensorboard: events beside metrics.jsonl. tracker: trackio or wandb, the same numbers
    to that library (extra `trackio`, `wandb`; where it sends them is its own setting, as WANDB_MODE or TRACKIO_DIR),
    under tracker_project. peak_tflops: of the device in compute_dtype, for the MFU (default: known for common GPUs).

    Raises TrainOptionError.
    """

    seed: int = 0
    unit: str = "group"
    batch_size: int | None = None
    updates: int | None = None
    epochs: int = 1
    shuffle_tokens: int = 2**25
    zero_advantage: str = "keep"
    max_length: int | None = None
    too_long: str = "keep"
    min_round: int | None = None
    off_policy: str = "refuse"

    loss: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    aggregation: str = "rollout_mean"
    aggregation_constant: float | None = None
    truncated_sampling: str = "refuse"

    old_policy: str = "behavior"
    max_mismatch: float | None = None
    importance: str = "none"
    importance_cap: float | None = None
    reject: str = "none"
    reject_low: float | None = None
    reject_high: float | None = None

    lora_rank: int = 0
    lora_alpha: int | None = None

    optimizer: str = "adamw"
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 20
    decay_share: float = 0.0
    grad_clip: float = 1.0
    stop_ratio: float = 1e4
    stop_grad_norm: float = 1e6

    layout: str = "auto"
    share_prompts: bool = False
    micro_batch_tokens: int | None = None
    compute_dtype: str = "float32"
    head: str = "chunked"
    logits_elements: int = 2**26
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    device: str = "auto"
    export_dtype: str = "auto"

    prefetch_steps: int = 2
    decode_threads: int = 2
    save_every: int = 50
    keep_checkpoints: int = 2
    tensorboard: bool = True
    tracker: str = "none"
    tracker_project: str = "passrl"
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainOptionError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        for name, least in LEAST.items():
            self._at_least(name, least)
        for name in ("batch_size", "updates", "max_length", "micro_batch_tokens"):
            if getattr(self, name) is not None:
                self._at_least(name, 1)
        for name in ("lr", "adam_eps", "stop_ratio", "stop_grad_norm"):
            if not getattr(self, name) > 0:
                raise TrainOptionError(f"{name} is {getattr(self, name)!r}; it must be above 0.")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise TrainOptionError(f"peak_tflops is {self.peak_tflops!r}; it must be above 0.")
        self._check_pairs()

    def _at_least(self, name: str, least: float) -> None:
        if not getattr(self, name) >= least:
            raise TrainOptionError(f"{name} is {getattr(self, name)!r}; it must be {least} or more.")

    def _check_pairs(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise TrainOptionError(f"betas is {self.betas!r}; give two numbers, each 0 or more and below 1.")
        if not 0 <= self.decay_share <= 1:
            raise TrainOptionError(f"decay_share is {self.decay_share!r}; it is a share of the steps, from 0 to 1.")
        if self.clip_low > 1:
            raise TrainOptionError(f"clip_low is {self.clip_low}; it must be at most 1 (a ratio is never below 0).")
        if self.batch_size is not None and self.updates is not None:
            raise TrainOptionError(
                f"batch_size {self.batch_size} and updates {self.updates} both say how many steps there are; set one."
            )
        if self.dual_clip is not None and not (self.loss == "clip" and self.dual_clip > 1):
            raise TrainOptionError(f"dual_clip is {self.dual_clip}; it goes with loss = 'clip' and must be above 1.")
        if self.updates is not None and self.updates < self.epochs:
            raise TrainOptionError(
                f"updates {self.updates} is below epochs {self.epochs}; an epoch has at least one step."
            )
        if self.share_prompts and (self.layout == "pack" or self.gradient_checkpointing):
            raise TrainOptionError(
                "share_prompts goes with layout 'pad' and without gradient_checkpointing (which keeps no keys and "
                "values); set it to false, or the others."
            )
        if self.head == "fused" and self.entropy_coef:
            raise TrainOptionError("head 'fused' tells no entropy; set entropy_coef to 0, or head to 'chunked'.")
        self._check_corrections()
        self._check_next_token()
        if (self.aggregation == "constant") != (self.aggregation_constant is not None):
            raise TrainOptionError(
                "aggregation_constant goes with aggregation = 'constant', and only with it; set both."
            )
        if self.aggregation_constant is not None and not self.aggregation_constant > 0:
            raise TrainOptionError(f"aggregation_constant is {self.aggregation_constant!r}; it must be above 0.")

    def _check_corrections(self) -> None:
        if (self.importance != "none") != (self.importance_cap is not None):
            raise TrainOptionError("importance and importance_cap go together (inf = no truncation); set both or none.")
        if self.importance_cap is not None and not self.importance_cap > 0:
            raise TrainOptionError(f"importance_cap is {self.importance_cap!r}; it must be above 0.")
        low, high = self.reject_low, self.reject_high
        if {self.reject == "none"} != {low is None, high is None}:
            raise TrainOptionError("reject goes with reject_low and reject_high; set all three or none.")
        if low is not None and high is not None and not 0 <= low < high:
            raise TrainOptionError(
                f"reject_low {low!r} and reject_high {high!r} are no range of ratios; give "
                "0 <= reject_low < reject_high."
            )
        if self.importance != "none" and self.old_policy == "behavior" and self.loss != "policy_gradient":
            raise TrainOptionError(
                f"importance {self.importance!r} under old_policy 'behavior' would count the sampler's ratio twice: "
                f"{self.loss!r} holds it. Set old_policy to 'recompute', loss to 'policy_gradient', or use reject."
            )
        if self.max_mismatch is not None and not (self.old_policy == "recompute" and self.max_mismatch > 1):
            raise TrainOptionError(
                f"max_mismatch is {self.max_mismatch!r}; it is measured by old_policy 'recompute'; 1 is no mismatch."
            )

    def _check_next_token(self) -> None:
        extras = {"kl_coef": 0, "entropy_coef": 0, "old_policy": "behavior", "importance": "none", "reject": "none"}
        for name, off in extras.items():
            if self.loss == "next_token" and getattr(self, name) != off:
                raise TrainOptionError(f"{name} is {getattr(self, name)!r}; loss 'next_token' knows no {name}.")

    def semantic(self) -> dict[str, Any]:
        """The options that decide the result, by name, as JSON values: what resume compares."""
        values = asdict(self)
        return {f.name: _jsonable(values[f.name]) for f in fields(self) if f.name not in OPERATIONAL}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
