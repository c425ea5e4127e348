"""vLLM in this process: a driver thread that owns the synchronous LLMEngine.

Every request is added on its own with its own seed, so a rollout does not depend on which others are in flight; vLLM's
prefix cache shares the prompt of a group all the same. What vLLM does to the process besides: the states of
the global generators and the environment for child processes are put back after the start. While sampling on a CPU it
draws from torch's global generator (and drops the draws: every rollout has its own), so code that relies on that state
seeds it itself. Closing tears down torch's distributed group of this process.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops.support.garbage import no_search_for_cycles
from pipelines.engines.base import (
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    SampleRequest,
)
from pipelines.engines.device import device_kind, free_cached_memory, resolve_dtype
from pipelines.engines.driver import Answer, DrivenEngine, PoolRequest, Request, ScoreRequest
from pipelines.engines.finite import finite_or_rejected
from pipelines.engines.statistics import of_likeliest
from pipelines.engines.stopping import read_sample, sought_underneath
from pipelines.engines.vllm_arguments import (
    batch_invariance,
    check_architecture,
    engine_arguments,
    lora_arguments,
    lora_request,
    pooling_params,
    purpose,
    sampling_params,
    scoring_params,
    token_bytes,
)
from pipelines.models.adapters import read_adapter
from pipelines.models.folder import check_model_folder, load_tokenizer, read_config, weights_identity

# In process: no child to leak. Lengths are checked here (see _context_length), so vLLM may be told one token more.
# Workers of tensor parallelism are spawned: a process forked from one that has seen CUDA cannot use it.
_FORCED_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_DEFAULT_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# What vLLM sets for workers it would start; here they would reach verifiers' and trainers' processes.
_CHILD_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE")


def start(model: str, options: EngineOptions) -> DrivenEngine:
    """Start vLLM on a model folder (6 to 35 s). Raises EngineStartError, EngineOptionError, ModelNotFoundError."""
    return DrivenEngine(lambda: VllmBackend(model, options), model=model, name="vllm")


def sampled_logprobs(flat: Any, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """The logprobs [T] of exactly these tokens out of vLLM's FlatLogprobs of T positions.

    A position may list other tokens before or after the sampled one, so the entry is found by its id. Raises
    RuntimeError where a position lacks its token: vLLM's answer is then not what this file takes it for.
    """
    listed = np.subtract(flat.end_indices, flat.start_indices)  # how many tokens each position lists, one after another
    position = np.repeat(np.arange(len(token_ids)), listed)
    sampled = np.flatnonzero(np.asarray(flat.token_ids) == token_ids[position])
    found = np.full(len(token_ids), np.nan, dtype=np.float32)
    found[position[sampled]] = np.asarray(flat.logprobs, dtype=np.float32)[sampled]
    if len(missing := np.setdiff1d(np.arange(len(token_ids)), position[sampled])):
        raise RuntimeError(f"vLLM returned no logprob for token {token_ids[missing[0]]} at position {missing[0]}.")
    return found


# vLLM keeps its distributed state in module globals: a second engine would share it, and lose it when one closes.
_one_in_this_process = threading.Lock()


class VllmBackend:
    """vLLM's LLMEngine behind the driver's five calls; see `driver.Backend`."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        check_architecture(model)
        self.tokenizer = load_tokenizer(model)
        if not _one_in_this_process.acquire(blocking=False):
            raise EngineStartError(
                f"vLLM cannot start on {model}: this process already runs a vLLM engine. Close that first (`release`), "
                "or use `acquire`, which keeps one."
            )
        self._options = options
        self._device = device_kind()
        self.pools = options.pooling is not None
        self._requests: dict[str, Request] = {}
        self._engine: Any = None
        self._base: tuple[tuple[str, int, int], ...] | None = None
        self._adapters = count(1)  # an id each time: vLLM keeps what it has loaded under an id
        try:
            self._start(model)
        except BaseException:
            _one_in_this_process.release()
            raise

    def add(self, key: int, request: Request) -> None:
        """Give one request to vLLM's scheduler."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input

        token_ids = request.prompt_token_ids if isinstance(request, SampleRequest) else request.token_ids
        if isinstance(request, ScoreRequest) and self._adapts_lm_head:
            raise RequestRejected(
                "request_failed", "vLLM scores no text under an adapter of lm_head; merge the adapter"
            )
        if isinstance(request, ScoreRequest):
            request.at_one()
        prompt = tokens_input(np.asarray(token_ids).tolist())
        try:
            self._engine.add_request(str(key), prompt, self._params(request), lora_request=self._lora)
        except (TypeError, ValueError, VLLMClientError) as e:  # vLLM's own validation, before anything is scheduled
            raise RequestRejected("request_failed", str(e)) from e
        self._requests[str(key)] = request

    def step(self) -> list[tuple[int, Answer]]:
        """One forward pass over what is in flight; the requests that finished with it."""
        finished = [output for output in self._engine.step() if output.finished]
        return [(int(o.request_id), self._answer(o, self._requests.pop(o.request_id))) for o in finished]

    def drop(self, keys: Collection[int]) -> None:
        """Take them out of vLLM's scheduler."""
        names = [str(key) for key in keys]
        self._engine.abort_request(names)
        for name in names:
            del self._requests[name]

    def load_weights(self, model: str) -> None:
        """Reload in place what differs and forget cached prefixes, whose keys and values are the old weights'."""
        if (base := base_weights(model)) != self._base:
            folder = str(check_model_folder(model))
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
            if self._device == "cpu":
                self._engine.apply_model(renew_packed_head)
            self._base = base
        self._use_adapter(model)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache after a weight reload; old prefixes would be mixed in")
        self._engine.reset_encoder_cache()

    def sleep(self) -> None:
        """On a GPU, vLLM's level 2 (weights, keys and values are dropped), or the engine's end where sleep mode is off.

        A CPU engine keeps what it has: the host's memory is no device that others wait for.
        """
        if self._device == "cpu":
            return
        if self._engine.model_config.enable_sleep_mode:
            self._engine.sleep(level=2)
        else:
            self._stop()
        free_cached_memory()

    def wake(self, model: str) -> None:
        """Weights first, then keys and values: reloading needs room that the cache would take."""
        if self._engine is None:
            self._start(model)
        elif self._device == "cpu":
            self.load_weights(model)
        else:
            self._engine.wake_up(["weights"])
            self._base = None  # what the woken memory holds is nobody's weights
            self.load_weights(model)
            if not self._engine.wake_up(["kv_cache"]):
                raise RuntimeError("vLLM is still partly asleep after its weights and its cache were woken")

    def close(self) -> None:
        """Stop vLLM and give its memory back."""
        try:
            self._stop()
            free_cached_memory()
        finally:
            _one_in_this_process.release()

    def _start(self, model: str) -> None:
        set_environment(self._options)
        with _side_effects_undone(), no_search_for_cycles():
            self._engine, self.max_model_len = _start_engine(model, self._options)
        self.vocab_size = int(self._engine.model_config.get_vocab_size())
        self._base = base_weights(model)
        self._use_adapter(model)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine.renderer.shutdown()
            self._engine = None

    def _use_adapter(self, model: str) -> None:
        adapter = read_adapter(model)
        self._lora = None if adapter is None else lora_request(adapter, next(self._adapters))
        self._adapts_lm_head = adapter is not None and "lm_head" in adapter.modules

    def _params(self, request: Request) -> Any:
        if isinstance(request, SampleRequest):
            room = self.max_model_len - len(request.prompt_token_ids)
            return sampling_params(request, room=room, stops=sought_underneath(self.tokenizer, request))
        return scoring_params() if isinstance(request, ScoreRequest) else pooling_params()

    def _answer(self, output: Any, request: Request) -> Answer:
        if isinstance(request, PoolRequest):
            return _pooled(output)
        completion = output.outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            detail = f"vLLM finished it as {completion.finish_reason!r} after {len(completion.token_ids)} tokens"
            return RequestRejected("aborted", detail, transient=True)
        if isinstance(request, ScoreRequest):
            token_ids = np.asarray(request.token_ids, dtype=np.int32)
            logprobs = sampled_logprobs(output.prompt_logprobs[1:], token_ids[1:])[request.start - 1 :]
            return finite_or_rejected(logprobs, logprobs, allow_zero_probability=True)
        token_ids = np.asarray(completion.token_ids, dtype=np.int32)
        logprobs = sampled_logprobs(completion.logprobs, token_ids)
        top = request.sampling.token_statistics
        statistics = of_likeliest(completion.logprobs, len(token_ids), top=top) if top else None
        sample = read_sample(
            self.tokenizer,
            request,
            token_ids,
            logprobs,
            finish_reason=completion.finish_reason,
            statistics=statistics,
        )
        return finite_or_rejected(sample, sample.logprobs, allow_zero_probability=False)


def set_environment(options: EngineOptions) -> None:
    """The variables vLLM reads, before it is imported; its log level also before it configures its logging itself."""
    os.environ.update(_FORCED_ENVIRONMENT | batch_invariance(options, device=device_kind()))
    for name, value in _DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logger = logging.getLogger("vllm")
    if logger.level == logging.NOTSET:
        logger.setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())


def _start_engine(model: str, options: EngineOptions) -> tuple[Any, int]:
    try:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as e:
        raise EngineStartError(
            f"vLLM cannot be imported ({e}). Install the extra `cpu` or `gpu`, or use the engine of kind transformers."
        ) from e
    dtype = resolve_dtype(model, options)
    try:
        base = str(check_model_folder(model))
        config = EngineArgs(model=base, dtype=dtype, **purpose(base, options)).create_model_config()
        length = _context_length(options.max_model_len, limit=config.max_model_len, model=model)
        arguments = engine_arguments(
            base,
            options,
            device=device_kind(),
            dtype=dtype,
            context_length=length,
            token_bytes=token_bytes(config),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch to vLLM
            scan_own_modules()
            with modules_frozen():
                return LLMEngine.from_engine_args(EngineArgs(**arguments | lora_arguments(model))), length
    except EngineOptionError:
        raise
    except Exception as e:
        raise EngineStartError(
            f"vLLM could not start on {model} (architecture {read_config(model).get('architectures')}, dtype {dtype}): "
            f"{type(e).__name__}: {e}"
        ) from e


class _OwnModules:
    """What vLLM's scan for kernels takes for `sys`: its own modules and those of its plug-ins."""

    @property
    def modules(self) -> dict[str, Any]:
        """Those imported by now, by name."""
        return {name: module for name, module in sys.modules.items() if name.startswith("vllm")}


def scan_own_modules() -> None:
    """Keep vLLM's scan for its kernels to the modules that can hold one.

    On a CPU without Triton, vLLM 0.32 looks into `__dict__` of every global of every module. llvmlite's library object
    takes that for the name of a C function, flask's proxies raise, and beside Beam and transformers a warm start takes
    a seventh less without them. Can go once vLLM looks at its own modules alone.
    """
    from vllm.triton_utils import dispatcher

    dispatcher.sys = _OwnModules()


@contextmanager
def modules_frozen() -> Iterator[None]:
    """Keep vLLM's own searches for garbage to what it makes while it starts.

    vLLM 0.32 collects five times then, walking over all modules that are loaded each time, freezes what is there, and
    thaws it when it closes. Where it does not start, it is thawed here.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    except BaseException:
        gc.unfreeze()
        raise


def renew_packed_head(model: Any) -> None:
    """After a reload on a CPU: let the head compute with the new weights.

    vLLM's CPU kernels multiply with a packed copy of a layer's weights. A reload (0.32) packs the layers anew whose
    tensors are in the checkpoint; a head that is tied to the embedding has none there and kept the old copy, so every
    logit came from the new body and the old head. Can go once vLLM packs it itself.
    """
    head: Any = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def base_weights(model: str) -> tuple[tuple[str, int, int], ...]:
    """Which weights an engine holds under any adapter."""
    return weights_identity(str(check_model_folder(model)))


def _context_length(wanted: int | None, *, limit: int, model: str) -> int:
    if wanted is not None and wanted > limit:
        raise EngineOptionError(f"max_model_len is {wanted}, but the model {model} takes at most {limit} tokens.")
    return wanted or limit


def _pooled(output: Any) -> Answer:
    if output.error is not None:
        return RequestRejected("request_failed", str(output.error))
    rows = np.atleast_2d(output.outputs.data.float().numpy())
    if np.isnan(rows).any():
        return RequestRejected("non_finite_score", f"NaN at position {int(np.argwhere(np.isnan(rows))[0, 0])}")
    return rows


@contextmanager
def _side_effects_undone() -> Iterator[None]:
    """Random states, torch.set_num_threads and child-process variables are after the start what they were before.

    vLLM's CPU worker replaces torch.set_num_threads by a function that only warns (0.32); a trainer in this process
    needs the real one.
    """
    import torch

    environment, set_num_threads = {name: os.environ.get(name) for name in _CHILD_VARIABLES}, torch.set_num_threads
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        torch.set_num_threads = set_num_threads
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
