"""What every engine answers to: requests in, futures out.

One engine serves one model in this process. It is fed by any number of threads: `submit` and `score` never block, each
returns a `concurrent.futures.Future`. What is wrong with one request is set on that request's future as a
`RequestRejected`; the requests beside it go on. What is wrong with the engine itself is an `EngineDead`, on every
future.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pass_ops.shards.sampling import cuts
from pipelines.engines.errors import (
    EngineDead,
    EngineOptionError,
    EngineStartError,
    RequestRejected,
    WeightsMismatchError,
)
from pipelines.engines.vllm_names import check_arguments, check_parameters

__all__ = [
    "Engine",
    "EngineDead",
    "EngineOptionError",
    "EngineOptions",
    "EngineStartError",
    "RequestRejected",
    "Sample",
    "SampleRequest",
    "Sampling",
    "WeightsMismatchError",
]

ENGINE_KINDS = ("vllm", "server", "transformers", "recorded")
LOGPROBS_MODES = ("raw_logprobs", "processed_logprobs")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Of Sampling.extra: they say where a completion ends, not how its tokens are drawn.
ENDING_PARAMETERS = frozenset({"stop_token_ids", "include_stop_str_in_output"})
LOWEST_TEMPERATURE = 0.01  # vLLM silently raises what is lower to this, and the logprobs would be another temperature's


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: temperature first, then top_k, top_p and min_p cut the distribution (off at 0, 1.0, 0.0).

    temperature 0 is greedy. max_tokens counts sampled tokens, the end token included. A stop string ends a completion
    as soon as its text contains it; token_ids and text keep it as sampled. ignore_eos samples on past end tokens.
    extra: further parameters by the names of vLLM's SamplingParams (repetition_penalty, logit_bias, bad_words, ...),
    for the kinds vllm and server.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        warm = np.isfinite(self.temperature) and self.temperature >= LOWEST_TEMPERATURE
        allowed = f"0 (greedy) or at least {LOWEST_TEMPERATURE}"
        _require(warm or self.temperature == 0, "temperature", self.temperature, allowed)
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "over 0 and at most 1 (1 = off)")
        _require(_is_int(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "an integer, 0 (off) or more")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 (off) and 1")
        _require(_is_int(self.max_tokens) and self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _require(all(isinstance(s, str) and s for s in self.stop), "stop", self.stop, "a list of non-empty strings")
        if self.extra:
            check_parameters(self.extra)

    @property
    def truncated(self) -> bool:
        """Whether the distribution is cut or bent: full-vocabulary logprobs are then not the behaviour's."""
        bent = any(name not in ENDING_PARAMETERS for name in self.extra)
        return bent or bool(cuts(asdict(self)))

    def as_options(self) -> dict[str, Any]:
        """Its options by name, `extra` only where it says something."""
        return {name: value for name, value in asdict(self).items() if name != "extra" or value}

    @property
    def logprobs_mode(self) -> str:
        """The mode whose logprobs are the behaviour's: raw at temperature 1 (and greedy), else processed."""
        return "raw_logprobs" if self.temperature in (0.0, 1.0) else "processed_logprobs"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is started. Equal options and an equal architecture let `acquire` keep the running one.

    dtype: "auto" is float32 on a CPU (bfloat16 for a bfloat16 checkpoint where the CPU computes in it: AVX-512 BF16),
    the checkpoint's on a GPU. device: "auto" is a GPU where there is one; name it where the machine that submits is not
    like its workers, and dtype then too: both decide results, and a worker with another device is refused.
    max_model_len: prompt plus completion in tokens; None = the model's own. logprobs_mode:
    raw_logprobs are log_softmax(logits); processed_logprobs are after temperature and truncation
    (`Sampling.logprobs_mode` says which fits). kv_cache_gib: memory for keys and values on a CPU, beside the model.
    max_num_seqs: rollouts sampled at a time. seed: the engine's own; rollouts carry theirs. deterministic: for kind
    "vllm", whatever else is sampled changes no bit of a rollout, at a price (docs/generation.md). url: for kind
    "server", where a vLLM server answers. recording: for kind "recorded", a Parquet or JSONL file, or "synthetic:SEED".
    extra: further arguments of the engine underneath, by its own names (kind vllm: vLLM's EngineArgs; server:
    served_model, api_key, timeout_s; transformers: batch_size; recorded: latency).
    pooling: None for a model that samples; else how one that classifies tokens (a process reward model) is pooled, by
    the names of vLLM's PoolerConfig, as {"pooling_type": "STEP", "step_tag_id": 9}; {} = the model's own way. Besides
    these, tokens = ["-", "+"] makes a causal language model a classifier whose classes are those tokens' logits.
    """

    kind: str = "vllm"
    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    kv_cache_gib: float = 1.0
    logprobs_mode: str = "raw_logprobs"
    seed: int = 0
    deterministic: bool = False
    recording: str | None = None
    url: str | None = None
    pooling: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _choice(self.kind, "kind", ENGINE_KINDS)
        _choice(self.dtype, "dtype", DTYPES)
        _choice(self.device, "device", DEVICES)
        _choice(self.logprobs_mode, "logprobs_mode", LOGPROBS_MODES)
        if self.max_model_len is not None:
            long_enough = _is_int(self.max_model_len) and self.max_model_len >= 2
            _require(long_enough, "max_model_len", self.max_model_len, "2 or more")
        _require(_is_int(self.max_num_seqs) and self.max_num_seqs >= 1, "max_num_seqs", self.max_num_seqs, "1 or more")
        _require(self.kv_cache_gib > 0, "kv_cache_gib", self.kv_cache_gib, "over 0")
        _require(_is_int(self.seed) and self.seed >= 0, "seed", self.seed, "an integer, 0 or more")
        _require(
            "tokens" not in (self.pooling or {}) or self.kind != "recorded", "pooling", self.pooling, "without tokens"
        )
        _require(not self.deterministic or self.kind == "vllm", "deterministic", True, "False unless kind is vllm")
        if self.kind == "vllm" and self.extra:
            check_arguments(self.extra)


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One rollout to sample: what it is given, its own seed (0 to 2**63 - 1), and how to draw."""

    prompt_token_ids: Sequence[int]
    seed: int
    sampling: Sampling

    def __post_init__(self) -> None:
        _require(_is_int(self.seed) and 0 <= self.seed < 2**63, "seed", self.seed, "0 to 2**63 - 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One completion of T tokens.

    token_ids: int32 [T], exactly what was sampled, the end token included. logprobs: float32 [T], natural log, of the
    sampled tokens in the engine's logprobs_mode. finish_reason: stop (end token or stop string) or length.
    text: token_ids decoded without special tokens.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    finish_reason: str
    text: str


class Engine(Protocol):
    """A running model. Thread-safe."""

    @property
    def tokenizer(self) -> Any:
        """The model folder's tokenizer (transformers' PreTrainedTokenizerFast)."""

    @property
    def max_model_len(self) -> int:
        """The most tokens a prompt and its completion may have together."""

    @property
    def in_flight(self) -> int:
        """Requests taken in and not answered yet, those that wait for a seat among them."""

    def submit(self, request: SampleRequest) -> Future[Sample]:
        """Begin one rollout; never blocks. A completion is cut at max_model_len (finish_reason length)."""

    def score(self, token_ids: Sequence[int], *, start: int) -> Future[NDArray[np.float32]]:
        """Logprobs of token_ids[start:] (start >= 1), each given all tokens before it: T = 1, full vocabulary."""

    def pool(self, token_ids: Sequence[int]) -> Future[NDArray[np.float32]]:
        """What an engine with `EngineOptions.pooling` says of given tokens: float32 [positions, labels].

        Positions are all tokens, or those that the pooling picks (a step tag). Raises EngineOptionError on an engine
        that samples, as `submit` and `score` do on one that pools.
        """

    def load_weights(self, model: str) -> None:
        """Take over the weights of another folder; what was submitted before is finished with the old ones."""

    def close(self) -> None:
        """Free model, memory and threads; open futures get EngineDead. Closing twice is no error."""


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _require(ok: bool, option: str, value: object, allowed: str) -> None:
    if not ok:
        raise EngineOptionError(f"{option} is {value!r}; it must be {allowed}.")


def _choice(value: str, option: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EngineOptionError(f"{option} is {value!r}; choose one of {', '.join(choices)}.")
