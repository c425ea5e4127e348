"""What a failing engine says of itself; where the device ran out of memory, with what to lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pass_ops.errors import PassError
from pipelines.engines.errors import EngineStartError

# Of torch, of vLLM's workers in other processes (their errors arrive as text), and of vLLM where its plan does not fit.
_SIGNS = (
    "out of memory",
    "no available memory for the cache blocks",
    "less than desired gpu memory utilization",
    "larger than the available kv cache memory",
)
_TO_START: Mapping[str, str] = {
    "vllm": (
        "Lower engine.max_model_len, or engine.extra.max_num_batched_tokens or engine.max_num_seqs; give vLLM a larger "
        "share of the card (engine.extra.gpu_memory_utilization), or divide the model between more GPUs "
        "(engine.extra.tensor_parallel_size)."
    ),
}
_TO_GO_ON: Mapping[str, str] = {
    "vllm": (
        "Lower engine.extra.gpu_memory_utilization, so that more is left for the computation, or "
        "engine.extra.max_num_batched_tokens or engine.max_num_seqs, so that it needs less."
    ),
    "transformers": "Lower engine.extra.batch_size.",
}


def out_of_memory(error: BaseException) -> str | None:
    """What the error, or one behind it, says of a device without memory left; None where none says so."""
    for one in reversed(list(_chain(error))):
        if type(one).__name__ == "OutOfMemoryError" or any(sign in str(one).lower() for sign in _SIGNS):
            line = (str(one).strip().splitlines() or [type(one).__name__])[0]
            return line.rstrip(".") + "."
    return None


def start_failure(error: BaseException, *, name: str, model: str) -> BaseException:
    """What starting the engine raises: the error itself, or where memory ran out an EngineStartError that says so."""
    line = out_of_memory(error)
    if line is None or (isinstance(error, PassError) and not isinstance(error, EngineStartError)):
        return error
    remedy = _TO_START.get(name, "Take a smaller model, or a larger card.")
    told = EngineStartError(
        f"The device has not the memory for the {name} engine on {model}: {line} Nothing of it was left on the device. "
        f"{remedy} Where another process holds memory of the card (nvidia-smi lists it), end that first."
    )
    told.__cause__ = error
    return told


def death(error: BaseException, *, name: str) -> str:
    """The message of the EngineDead of an engine that died of the error."""
    line = out_of_memory(error)
    if line is None:
        return f"The {name} engine died: {type(error).__name__}: {error}. Start another."
    remedy = _TO_GO_ON.get(name, "Ask for less at a time.")
    return (
        f"The {name} engine died: the device ran out of memory while it computed: {line} Its memory is free again, and "
        f"finished parts are kept: run the same command again with less. {remedy}"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = set[int]()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
