"""What every engine answers to: requests in, futures out.

One engine serves one model in this process. It is fed by any number of threads: `submit` and `score` never block, each
returns a `concurrent.futures.Future`. What is wrong with one request is set on that request's future as a
`RequestRejected`; the requests beside it go on. What is wrong with the engine itself is an `EngineDead`, on every
future.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Strict

from pass_ops.shards.sampling import cuts
from pipelines.engines.errors import (
    DeviceHeldError,
    EngineAsleep,
    EngineDead,
    EngineOptionError,
    EngineStartError,
    RequestRejected,
    WeightsMismatchError,
)
from pipelines.engines.text import TokenIds
from pipelines.engines.vllm_names import check_arguments, check_parameters
from pipelines.options import Table, Url, options
from pipelines.options.types import Positive, Seed, Share, Tokens, ZeroOrMore

__all__ = [
    "DeviceHeldError",
    "Engine",
    "EngineAsleep",
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

EngineKind = Literal["vllm", "server", "transformers", "recorded"]
LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]
NeededMode = LogprobsMode | Literal["either"]
# Of Sampling.extra: they say where a completion ends, not how its tokens are drawn.
ENDING_PARAMETERS = frozenset({"stop_token_ids", "include_stop_str_in_output"})
# Of EngineOptions.extra: how much of the machine is used, not what is computed.
OPERATIONAL_EXTRA = frozenset(
    {
        *("gpu_memory_utilization", "swap_space", "cpu_offload_gb", "disable_log_stats", "enable_sleep_mode"),
        *("max_num_batched_tokens", "batch_size", "latency", "served_model", "api_key", "timeout_s"),
    }
)
LOWEST_TEMPERATURE = 0.01  # vLLM silently raises what is lower to this, and the logprobs would be another temperature's


def _warm_or_greedy(temperature: float) -> float:
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise ValueError(f"it must be 0 (greedy) or at least {LOWEST_TEMPERATURE}, not {temperature}")
    return temperature


def _one_or_several(stop: Any) -> Any:
    return (stop,) if isinstance(stop, str) else stop


Temperature = Annotated[float, Ge(0), AfterValidator(_warm_or_greedy)]
StopString = Annotated[str, MinLen(1)]
StopStrings = Annotated[
    tuple[StopString, ...],
    Strict(False),
    BeforeValidator(_one_or_several, json_schema_input_type=StopString | list[StopString]),
]


@options(EngineOptionError)
class Sampling:
    """How tokens are drawn: temperature first, then top_k, top_p and min_p cut the distribution."""

    temperature: Temperature = 1.0
    """Logits are divided by this before the softmax. 0 is greedy; 1.0 draws from the model's own distribution."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Keeps the smallest set of most likely tokens whose probabilities sum to this (1.0 = off). Example: 0.95."""
    top_k: ZeroOrMore = 0
    """Keeps this many of the most likely tokens (0 = off). Example: 50."""
    min_p: Share = 0.0
    """Drops tokens less likely than this share of the most likely one's probability (0.0 = off). Example: 0.05."""
    max_tokens: Tokens = 256
    """Most tokens of a completion, the end token included; what a rollout program inserts counts too. At most 2**24,
    which is above any model's context."""
    stop: StopStrings = ()
    r"""Strings that end a completion as soon as its text contains one; the rollout keeps it. A special token ends it by
    its id. Example: ["\n\n"]."""
    keep_special_tokens: StopStrings = ()
    """Special tokens that stay in the text of a completion, which shows none otherwise. Example:
    ["<think>", "</think>"]."""
    ignore_eos: bool = False
    """Keeps sampling after an end token, up to max_tokens: for measurements of speed."""
    token_statistics: ZeroOrMore = 0
    """Stores entropy and sum_pi_squared of the distribution that each token's logprob belongs to (0 = off): exact with
    engine kind transformers, with kind vllm from so many of the likeliest tokens. Example: 20."""
    extra: Table = field(default_factory=dict)
    """More sampling parameters, by the names of vLLM's SamplingParams; engine kinds vllm and server only. Example:
    { repetition_penalty = 1.05 }."""

    def __post_init__(self) -> None:
        if self.extra:
            check_parameters(self.extra)

    @property
    def truncated(self) -> bool:
        """Whether the distribution is cut or bent: full-vocabulary logprobs are then not the behaviour's."""
        return self._bent or bool(cuts(asdict(self)))

    @property
    def _bent(self) -> bool:
        return any(name not in ENDING_PARAMETERS for name in self.extra)

    def as_options(self) -> dict[str, Any]:
        """Its options by name, later ones only where they say something: older datasets keep their fingerprints."""
        later = ("extra", "keep_special_tokens", "token_statistics")
        return {name: value for name, value in asdict(self).items() if name not in later or value}

    def as_values(self) -> dict[str, Any]:
        """`as_options` with `extra` in any case, as signals record it."""
        return {"extra": dict(self.extra)} | self.as_options()

    @property
    def logprobs_mode(self) -> LogprobsMode:
        """The mode whose logprobs are the behaviour's: raw at temperature 1 (and greedy), else processed."""
        return "raw_logprobs" if self.temperature in (0.0, 1.0) else "processed_logprobs"

    @property
    def needed_mode(self) -> NeededMode:
        """The mode that an engine must be in to report those: either, where the two are the same numbers.

        They are at temperature 1 where nothing is cut, and greedily, where cuts are no cuts.
        """
        same = not self.truncated if self.temperature == 1.0 else self.temperature == 0.0 and not self._bent
        return "either" if same else self.logprobs_mode


@options(EngineOptionError)
class EngineOptions:
    """How an engine is started. Two uses with equal options and one architecture share a running engine."""

    kind: EngineKind = "vllm"
    """What runs the model: vllm in this process, a vLLM server somewhere else, transformers (slow, for reference), or
    recorded answers (no model, for tests)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the model computes in. auto takes the checkpoint's on a GPU, and on a CPU float32 (bfloat16 for a bfloat16
    checkpoint where the CPU has AVX-512 BF16). It decides results: a worker that would resolve auto differently is
    refused."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs. auto takes a GPU where there is one; name the device where the machine that submits a job
    has another one than its workers."""
    max_model_len: Annotated[int, Ge(2), Le(2**24)] | None = None
    """Most tokens of prompt and completion together (default: the model's context). Example: 4096."""
    max_num_seqs: Annotated[int, Ge(1), Le(65_536)] | None = None
    """Rollouts sampled at the same time (default: 256; for vLLM on a GPU of 40 GiB or more 512, or 1024 of a model up
    to 1.5B). Each holds memory, so there are at most 65536. Example: 128."""
    kv_cache_gib: Positive = 1.0
    """Memory for keys and values on a CPU in GiB, in addition to the model's own; no more of it is taken than
    max_num_seqs rollouts of max_model_len tokens fill."""
    logprobs_mode: NeededMode = "raw_logprobs"
    """Which log-probabilities the engine reports: those of the raw logits, those after temperature and truncation, or
    either, for whoever samples where both are the same or reads none. Stages and signals set this to what they need."""
    seed: Seed = 0
    """The engine's own seed. Rollouts do not depend on it: each has a seed of its own."""
    deterministic: bool = False
    """Makes a rollout bit-identical whatever else is in its batch; this costs throughput. Kind vllm only."""
    recording: Url | None = None
    """For kind recorded: a Parquet or JSONL file of rollouts, or synthetic:SEED for made-up ones. Example:
    "synthetic:0"."""
    url: Url | None = None
    """For kind server: where the vLLM server answers. Example: "http://127.0.0.1:8000"."""
    pooling: Table | None = None
    """How a model that classifies tokens (a process reward model) is pooled, by the names of vLLM's PoolerConfig; {}
    leaves it to the model, and not set means a model that samples. tokens = ["▁-", "▁+"] makes a causal language model
    a classifier whose classes are those tokens' logits. Example: { pooling_type = "STEP", step_tag_id = 9 }."""
    extra: Table = field(default_factory=dict)
    """More arguments of the engine, by its own names. vllm: vLLM's EngineArgs; server: served_model, api_key
    ("env:NAME"), timeout_s; transformers: batch_size; recorded: latency. Example: { gpu_memory_utilization = 0.8 }."""

    def __post_init__(self) -> None:
        if self.kind == "recorded" and "tokens" in (self.pooling or {}):
            raise EngineOptionError("pooling has tokens, which kind recorded does not know; leave them out")
        if self.deterministic and self.kind != "vllm":
            raise EngineOptionError(f"deterministic is true, but kind is {self.kind!r}; only kind 'vllm' can be")
        if self.kind == "vllm" and self.extra:
            check_arguments(self.extra)

    def on_device_of(self, run: EngineOptions) -> EngineOptions:
        """These options on the device of the run's own, where they name none."""
        return replace(self, device=run.device) if self.device == "auto" else self

    def for_another_model(self) -> EngineOptions:
        """How a model beside the policy is run where nobody says: on the same device, with the same library.

        What belongs to the policy stays out: its context, seed, recording and server, and extras that change results.
        """
        local = self.kind in ("vllm", "transformers")
        return EngineOptions(
            kind=self.kind if local else "vllm",
            dtype=self.dtype,
            device=self.device,
            max_num_seqs=self.max_num_seqs,
            kv_cache_gib=self.kv_cache_gib,
            deterministic=self.deterministic,
            extra={name: value for name, value in self.extra.items() if local and name in OPERATIONAL_EXTRA},
        )


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One rollout to sample: what it is given, its own seed (0 to 2**63 - 1), and how to draw."""

    prompt_token_ids: TokenIds
    seed: int
    sampling: Sampling

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, (int, np.integer)) and 0 <= self.seed < 2**63):
            raise EngineOptionError(f"seed is {self.seed!r}; it must be 0 to 2**63 - 1.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One completion of T tokens.

    token_ids: int32 [T], exactly what was sampled, the end token included. logprobs: float32 [T], natural log, of the
    sampled tokens in the engine's logprobs_mode. finish_reason: stop (end token or stop string) or length.
    text: token_ids decoded without special tokens, except `Sampling.keep_special_tokens`. statistics: float32 [2, T],
    entropy (nats) and sum of squared probabilities at each token, where `Sampling.token_statistics` asks for them.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    finish_reason: str
    text: str
    statistics: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A running model. Thread-safe."""

    @property
    def tokenizer(self) -> Any:
        """The model folder's tokenizer (transformers' PreTrainedTokenizerFast)."""

    @property
    def max_model_len(self) -> int:
        """The most tokens a prompt and its completion may have together."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def width(self) -> int:
        """How many engines answer behind this one, each `max_num_seqs` requests at a time."""

    @property
    def in_flight(self) -> int:
        """Requests taken in and not answered yet, those that wait for a seat among them."""

    def submit(self, request: SampleRequest) -> Future[Sample]:
        """Begin one rollout; never blocks. A completion is cut at max_model_len (finish_reason length)."""

    def score(self, token_ids: TokenIds, *, start: int, temperature: float = 1.0) -> Future[NDArray[np.float32]]:
        """Logprobs of token_ids[start:] (start >= 1), each given all tokens before it: full vocabulary.

        log softmax(logits / temperature); a temperature other than 1 is for kind transformers, others reject it.
        """

    def pool(self, token_ids: TokenIds) -> Future[NDArray[np.float32]]:
        """What an engine with `EngineOptions.pooling` says of given tokens: float32 [positions, labels].

        Positions are all tokens, or those that the pooling picks (a step tag). Raises EngineOptionError on an engine
        that samples, as `submit` and `score` do on one that pools.
        """

    def drop(self, futures: Iterable[Future[Any]]) -> None:
        """Nobody waits for these answers of this engine any more, so nothing more is spent on them.

        What is not answered by then is cancelled, or a RequestRejected `aborted`. A server computes on.
        """

    @property
    def asleep(self) -> bool:
        """Whether `sleep` was called and `wake` not yet."""

    @property
    def dead(self) -> bool:
        """Whether it was closed or failed; start another."""

    def load_weights(self, model: str) -> None:
        """Take over the weights of another folder; what was submitted before is finished with the old ones."""

    def sleep(self) -> None:
        """Finish what was submitted, then free the device: its weights, keys and values are given up.

        Requests get EngineAsleep until `wake`. What computes on a CPU, or on a server, holds no device of this process
        and may keep its memory. Sleeping twice is no error.
        """

    def wake(self, model: str) -> None:
        """Take the device again, with this folder's weights and no cached prefix. Awake, it is `load_weights`.

        Raises WeightsMismatchError, and stays asleep, where the folder does not fit the engine.
        """

    def close(self) -> None:
        """Free model, memory and threads; open futures get EngineDead. Closing twice is no error."""
