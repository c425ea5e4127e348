"""Our options in vLLM's words: the arguments of its engine and the parameters of its requests. Imports vLLM late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from pipelines.engines.base import EngineOptionError, EngineOptions, SampleRequest
from pipelines.engines.gpu_defaults import SEATS, SHARE, defaults_here
from pipelines.engines.text import Stops, class_tokens
from pipelines.models.adapters import Adapter, read_adapter
from pipelines.models.folder import load_tokenizer, read_config

_CPU_BATCHED_TOKENS = 4096
_CPU_BLOCK = 128  # tokens: vLLM gives out keys and values on a CPU in blocks of so many


def engine_arguments(
    model: str,
    options: EngineOptions,
    *,
    device: str,
    dtype: str,
    context_length: int,
    token_bytes: int | None = None,
) -> dict[str, Any]:
    """The options as keywords of vLLM's EngineArgs; `extra` goes over the defaults, not over the options' own fields.

    On a CPU chunked prefill is off and a prompt always fits one step: a seeded request whose prefill is cut asks its
    generator for an offset, which CPU generators do not have ("CPU Generator does not use offset", vLLM 0.32), and the
    engine dies. It can go once vLLM's CPU runner does without.

    Sums are added in another order in another batch. So a deterministic engine takes one rollout at a time on a CPU,
    without prefixes that others left in the cache; a GPU has batch-invariant kernels (`batch_invariance`).

    On a GPU what is not given follows from card and model (`gpu_defaults`). A model that samples has a float32 head
    there, as the trainer's: logits rounded to bfloat16 would be another distribution than the one that is trained.

    token_bytes: see `token_bytes`; on a CPU no more is taken for keys and values than all seats can fill.
    """
    arguments: dict[str, Any] = {
        "enforce_eager": device == "cpu",
        "enable_prefix_caching": options.pooling is None and not options.deterministic,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if device == "cpu":
        on_device = _cpu_arguments(options, context_length=context_length, token_bytes=token_bytes)
    else:
        on_device = _gpu_arguments(model, options, context_length=context_length)
    seats = on_device.pop("max_num_seqs")
    return {
        **arguments,
        **on_device,
        **options.extra,
        **head_overrides(options, device=device, dtype=dtype),
        **purpose(model, options),
        "model": model,
        "dtype": dtype,
        # One more than promised: vLLM scores a prompt only where a further token would fit.
        "max_model_len": context_length + (options.pooling is None),
        "max_num_seqs": seats,
        "logprobs_mode": "raw_logprobs" if options.logprobs_mode == "raw_logprobs" else "processed_logprobs",
        "seed": options.seed,
    }


def _cpu_arguments(options: EngineOptions, *, context_length: int, token_bytes: int | None) -> dict[str, Any]:
    seats = options.max_num_seqs or SEATS
    cache = int(options.kv_cache_gib * 2**30)
    if token_bytes is not None and not options.extra:  # which may change blocks and layers, or bring a draft model
        blocks = seats * ceil((context_length + 1) / _CPU_BLOCK) + 1  # the first is kept by vLLM
        cache = min(cache, blocks * _CPU_BLOCK * token_bytes)
    return {
        "kv_cache_memory_bytes": cache,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context_length + 1, _CPU_BATCHED_TOKENS, seats),
        "max_num_seqs": 1 if options.deterministic else seats,
    }


def _gpu_arguments(model: str, options: EngineOptions, *, context_length: int) -> dict[str, Any]:
    defaults = defaults_here(model, pools=options.pooling is not None)
    seats = options.max_num_seqs or defaults.seats
    # Pooling at step tags takes a prompt whole (vLLM turns chunked prefill off), so each has to fit a batch.
    whole = context_length if options.pooling is not None else 0
    return {
        "max_num_batched_tokens": max(defaults.batched_tokens, seats, whole),
        "gpu_memory_utilization": defaults.share,
        "enable_sleep_mode": True,  # so that the trainer and other models get the device (`Engine.sleep`)
        "max_num_seqs": seats,
    }


def token_bytes(config: Any) -> int | None:
    """Bytes that keys and values of one token take in all layers; None where some layer keeps another state.

    config: vLLM's ModelConfig.
    """
    from vllm.config import ParallelConfig

    kinds = set(getattr(config.hf_text_config, "layer_types", None) or [])
    if len(kinds) > 1 or config.is_hybrid or config.has_inner_state or config.use_mla or config.is_attention_free:
        return None
    one = ParallelConfig()
    heads, layers = config.get_num_kv_heads(one), config.get_num_layers(one)
    return int(2 * layers * heads * config.get_head_size() * config.dtype.itemsize)


def check_architecture(model: str) -> None:
    """Refuse a model that vLLM computes wrongly: its rollouts would not be the policy's. Raises EngineOptionError.

    benchmarks/architectures.py compares vLLM's scores with the trainer's. Multi-query gpt_bigcode, which vLLM 0.32 runs
    through its transformers backend, is off by 3 nats; the same model with one key head per query head is right.
    """
    config = read_config(model)
    if config.get("model_type") == "gpt_bigcode" and config.get("multi_query", True):
        raise EngineOptionError(
            f"{model} is a gpt_bigcode model with multi-query attention, which vLLM 0.32 computes wrongly (its "
            'log-probabilities are off by nats); set engine.kind to "transformers".'
        )


def head_overrides(options: EngineOptions, *, device: str, dtype: str) -> dict[str, Any]:
    """The `hf_overrides` by which a model that samples on a GPU computes its logits in float32; the user's come first.

    A model that pools has a float32 head by vLLM's own default.
    """
    if device == "cpu" or dtype == "float32" or options.pooling is not None:
        return {}
    return {"hf_overrides": {"head_dtype": "float32", **options.extra.get("hf_overrides", {})}}


def memory_share(options: EngineOptions) -> float:
    """The share of a GPU that vLLM takes."""
    return float(options.extra.get("gpu_memory_utilization", SHARE))


def batch_invariance(options: EngineOptions, *, device: str) -> dict[str, str]:
    """The variable by which vLLM takes kernels whose sums do not depend on the batch; a CPU has none and must not."""
    return {} if device == "cpu" else {"VLLM_BATCH_INVARIANT": str(int(options.deterministic))}


def purpose(model: str, options: EngineOptions) -> dict[str, Any]:
    """Whether the model samples or pools, as EngineArgs keywords. Raises EngineOptionError for a pooling unknown."""
    if options.pooling is None:
        return {}
    from vllm.config import PoolerConfig

    pooling = dict(options.pooling)
    tokens = pooling.pop("tokens", None)
    try:
        arguments = {"runner": "pooling", "pooler_config": PoolerConfig(**pooling)}
    except (TypeError, ValueError) as error:
        raise EngineOptionError(f"pooling is {dict(options.pooling)!r}, which vLLM refuses: {error}") from error
    return arguments if tokens is None else arguments | {"hf_overrides": _token_classifier(model, options, tokens)}


def _token_classifier(model: str, options: EngineOptions, tokens: Sequence[str]) -> dict[str, Any]:
    """The overrides by which vLLM takes a causal language model's head, cut down to these tokens, for a classifier."""
    (name,) = read_config(model)["architectures"]
    class_tokens(load_tokenizer(model), tokens)
    return {
        **options.extra.get("hf_overrides", {}),
        "architectures": [name.replace("ForCausalLM", "ForSequenceClassification")],
        "classifier_from_token": list(tokens),
        "method": "no_post_processing",
    }


def sampling_params(request: SampleRequest, *, room: int, stops: Stops) -> Any:
    """One rollout's SamplingParams; `room`: how many tokens still fit the context. Raises vLLM's own ValueErrors."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    extra = dict(sampling.extra)
    if isinstance(extra.get("structured_outputs"), Mapping):
        extra["structured_outputs"] = StructuredOutputsParams(**extra["structured_outputs"])
    if stops.tokens:
        extra["stop_token_ids"] = [*(extra.get("stop_token_ids") or ()), *stops.tokens.values()]
    return SamplingParams(
        **extra,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        max_tokens=min(sampling.max_tokens, room),
        stop=list(stops.strings),
        ignore_eos=sampling.ignore_eos,
        seed=request.seed,
        logprobs=sampling.token_statistics,
        flat_logprobs=True,
        detokenize=bool(stops.strings or "bad_words" in extra),  # vLLM needs the text to look for strings only
        skip_special_tokens=not sampling.keep_special_tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params() -> Any:
    """Logprobs of a prompt's own tokens; the one token sampled besides is dropped."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        prompt_logprobs=0,
        temperature=0.0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def pooling_params() -> Any:
    """Each position's classes; what is a position, and whether they are softmaxed, says the engine's pooler."""
    from vllm import PoolingParams

    return PoolingParams(task="token_classify")


def lora_arguments(model: str) -> dict[str, Any]:
    """EngineArgs keywords that make room for a model folder's adapter; none for a whole model.

    vLLM allocates for certain ranks only; the least that holds the adapter. Only the modules it adapts are given room:
    left to itself vLLM 0.32 wraps lm_head too, and then prompt logprobs of requests scored side by side break.
    """
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    adapter = read_adapter(model)
    if adapter is None:
        return {}
    fitting = [rank for rank in get_args(MaxLoRARanks) if rank >= adapter.rank]
    if not fitting:
        raise EngineOptionError(f"{model} is an adapter of rank {adapter.rank}; vLLM takes {get_args(MaxLoRARanks)}.")
    modules = sorted(adapter.modules)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(fitting), "lora_target_modules": modules}


def lora_request(adapter: Adapter, number: int) -> Any:
    """What names an adapter in a request."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{number}", number, str(adapter.folder.resolve()))
