"""A Hugging Face folder as a model in memory: every tensor of the folder's own, no code of the folder's own, and an
attention that computes all of the model.

What is refused here would be filled with random numbers, executed, or left out by transformers, with a warning at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainer.attention import is_flash
from trainer.errors import ModelLoadError

# What transformers raises for a folder or an input it cannot use.
UNUSABLE = (AttributeError, ImportError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
TOLERANCE = 1e-4  # nats in float32: far above rounding, far below what a missing part causes
SHOWN = 4  # names in a message
_META = torch.empty(1, 1, device="meta")
EAGER = "Set attention = 'eager'."


def load_model(model_class: Any, folder: str | Path, *, dtype: torch.dtype, attention: str = "auto") -> Any:
    """The folder's model in eval mode. attention: auto takes sdpa where it computes the model's function, else eager.

    model_class: a class of transformers with `from_pretrained`. Raises ModelLoadError where tensors are missing, left
    over or of other shapes than the config says, where the folder needs code of its own or is quantized, and where the
    attention asked for is not to be had or ignores a part of the model.
    """
    path = Path(folder)
    check_loadable(path)
    model = _from_pretrained(model_class, path, dtype=dtype, attention=attention)
    if attention not in ("auto", "sdpa") or model.config._attn_implementation != "sdpa":
        return model
    if (wrong := _left_out_by_sdpa(model)) is None:
        return model
    if attention == "sdpa":
        raise ModelLoadError(f"attention 'sdpa' does not compute {folder} ({type(model).__name__}): {wrong}. {EAGER}")
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
        return model
    del model
    return _from_pretrained(model_class, path, dtype=dtype, attention="eager")


def check_loadable(folder: Path) -> None:
    """Raises ModelLoadError for a folder that transformers would run code of, or that is quantized."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelLoadError(f"{folder / 'config.json'} is not readable as a model's config: {error!r}.") from error
    if kind not in CONFIG_MAPPING_NAMES:
        own = " and the folder brings its own code (auto_map)" if "auto_map" in config else ""
        raise ModelLoadError(
            f"{folder} is of model_type {kind!r}, which this version of transformers does not have{own}. Code of a "
            "model folder is never run; convert the model to an architecture of transformers."
        )
    if quantization := config.get("quantization_config") or (config.get("text_config") or {}).get(
        "quantization_config"
    ):
        raise ModelLoadError(
            f"{folder} is quantized ({quantization.get('quant_method', 'unknown')}), and its weights cannot be trained "
            "or compared as they are. Save a dequantized copy (bfloat16 or float32, without quantization_config)."
        )


def _from_pretrained(model_class: Any, folder: Path, *, dtype: torch.dtype, attention: str) -> Any:
    chosen = None if attention == "auto" else attention
    try:
        with no_progress_bar():
            model, found = model_class.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=chosen,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are named below
                output_loading_info=True,
            )
    except (*UNUSABLE, SafetensorError) as error:
        raise ModelLoadError(_why_not(folder, error, attention=attention)) from error
    for kind, keys in found.items():
        if keys:
            raise ModelLoadError(_incomplete(folder, type(model).__name__, kind, keys))
    if getattr(model.config, "rescale_every", 0):
        model.config.rescale_every = 0  # RWKV in eval mode divides its own weights, against float16's overflow
    return model.eval()


def _why_not(folder: Path, error: Exception, *, attention: str) -> str:
    first = (str(error).strip() or repr(error)).split("\n\n")[0].split("Model type should be one of")[0].strip()
    if "attn_implementation" in first or ("attention" in first.lower() and attention not in ("auto", "eager")):
        return f"{folder} cannot be run with attention {attention!r}: {first.splitlines()[0].split('. ')[0]}. {EAGER}"
    if "Unrecognized configuration class" in first:
        return (
            f"{folder} is no causal language model of text (a multimodal, encoder or other model: {first}). Give the "
            "language model alone, saved by its own ...ForCausalLM class."
        )
    return f"{folder} cannot be loaded: {type(error).__name__}: {first}"


def _incomplete(folder: Path, name: str, kind: str, keys: Any) -> str:
    shown = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
    listed = ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
    what = {
        "missing_keys": "lacks tensors that its config calls for, and transformers would fill them with random numbers",
        "unexpected_keys": "holds tensors that its config has no place for, and transformers would leave them out",
        "mismatched_keys": "holds tensors of other shapes than its config calls for",
    }.get(kind, f"was not loaded as it is ({kind})")
    return (
        f"{folder} ({name}) {what}: {listed}. Config and weights do not belong together, or the copy is incomplete: "
        "copy or save the model again."
    )


def _left_out_by_sdpa(model: Any) -> str | None:
    """What of the model its sdpa attention ignores, in words; None where it computes what eager attention does."""
    for config in _configs(model.config):
        if getattr(config, "attn_logit_softcapping", None):
            return f"it ignores attn_logit_softcapping {config.attn_logit_softcapping:g}"
    if not model._can_set_attn_implementation():
        return "it cannot be compared with eager attention"
    if model.dtype != torch.float32:
        return None  # rounding would hide the difference
    ids_1T = probe_ids(model, length=12)
    try:
        off_T = (logits(model, ids_1T).log_softmax(-1) - plain_logits(model, ids_1T).log_softmax(-1)).abs().mean(-1)
    except UNUSABLE as error:
        return f"a forward pass of text fails: {type(error).__name__}: {error}"
    if same(off_T, model):
        return None
    return f"its log-probabilities are {off_T.max():.2g} nats from those of eager attention"


def _configs(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, name, None)) is not None:
            yield from _configs(inner)


def probe_ids(model: Any, *, length: int, seed: int = 0) -> Tensor:
    """Random ids [1, length], no longer than what the model takes as it is, without special ones its config names."""
    special = {
        value for config in _configs(model.config) for key, value in vars(config).items()
        if key.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }  # fmt: skip
    size = model.get_input_embeddings().num_embeddings
    ids_V = torch.tensor([i for i in range(min(size, 10_000)) if i not in special] or [0])
    length = min(length, rope_limit(model.config) or length, context_length(model.config))
    drawn = torch.randint(len(ids_V), (1, length), generator=_generator(seed))
    return ids_V[drawn].to(model.device)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def logits(model: Any, ids_1T: Tensor) -> Tensor:
    """float32 [T, classes] by the model's own forward pass."""
    plain = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    found = model(input_ids=ids_1T, **plain)
    logits_TV: Tensor = (found if isinstance(found, Tensor) else found.logits)[0].float()
    return logits_TV


def plain_logits(model: Any, ids_1T: Tensor) -> Tensor:
    """The same with eager attention, where the model can be switched to it."""
    before = model.config._attn_implementation
    if before == "eager" or not model._can_set_attn_implementation():
        return logits(model, ids_1T)
    model.set_attn_implementation("eager")
    try:
        return logits(model, ids_1T)
    finally:
        model.set_attn_implementation(before)


def same(off_N: Tensor, model: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether absolute differences are rounding alone; NaN is judged elsewhere.

    Rounding can send a token of a mixture of experts to another expert, and bfloat16's can make an unlikely token's
    logit another by a tenth, so there half of the tokens must agree.
    """
    if not off_N.isfinite().all() or not len(off_N):
        return True
    return bool((off_N.median() if is_routed(model) or is_low_precision(model) else off_N.max()) <= tolerance)


def is_low_precision(model: Any) -> bool:
    """Whether the model cannot compute in float32: it holds weights of another type, or takes a flash attention."""
    return model.dtype != torch.float32 or is_flash(str(model.config._attn_implementation))


def is_routed(model: Any) -> bool:
    """Whether the model is a mixture of experts."""
    return any("experts" in name for name, _ in model.named_modules())


def context_length(config: Any) -> int:
    """Longest sequence the architecture supports, in tokens, as vLLM derives it (vllm/config/model.py).

    max_position_embeddings of the text part; times the factor of linear and dynamic rope scaling, which yarn, longrope
    and llama3 have in it already.
    """
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length", "n_positions")
    limit = next((int(getattr(text, name)) for name in names if getattr(text, name, None)), 2**31 - 1)
    rope = getattr(text, "rope_parameters", None) or {}
    scaled = [rope, *(inner for inner in rope.values() if isinstance(inner, Mapping))]
    if "gemma3" in str(text.model_type):
        return limit  # max_position_embeddings is what scaling has made it
    factors = [r.get("factor") for r in scaled if r.get("rope_type", r.get("type")) in ("linear", "dynamic")]
    return int(limit * max([1.0, *(float(factor) for factor in factors if factor)]))


def rope_limit(config: Any) -> int | None:
    """Length beyond which rope follows the longest row of a forward pass (dynamic, longrope); None where none does."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    for inner in (rope, *(inner for inner in rope.values() if isinstance(inner, Mapping))):
        if inner.get("rope_type") in ("dynamic", "longrope"):
            return int(inner.get("original_max_position_embeddings") or text.max_position_embeddings)
    return None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a model's parameters are stored in its folder.

    dtypes: of every tensor of the folder. names: the model's own names of its parameters, one of each tied group.
    trained: the names under which the folder has these. aliases: second names of tied ones in the folder -> the first.
    """

    dtypes: Mapping[str, torch.dtype]
    names: frozenset[str]
    trained: frozenset[str]
    aliases: Mapping[str, str]


def weights_layout(model: Any, folder: Path) -> Layout:
    """Compares names and shapes of the model's parameters with the folder's tensors.

    Raises ModelLoadError where the parameters could not be written under the names they have in the folder.
    """
    stored = dict(_headers(folder))
    names, aliases = _untied(model, stored)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = in_folder_names(model, {name: _meta(parameters[name]) for name in names})
    for name, tensor in trained.items():
        shape = stored.get(name, (None, None))[0]
        if shape != tuple(tensor.shape):
            found = "no such tensor" if shape is None else f"one of shape {shape}"
            raise ModelLoadError(
                f"{folder} ({type(model).__name__}): the parameter {name} {tuple(tensor.shape)} would be exported, and "
                f"the folder has {found}. Save the model with this version of transformers' save_pretrained first."
            )
    return Layout(
        dtypes={name: dtype for name, (_, dtype) in stored.items()},
        names=frozenset(names),
        trained=frozenset(trained),
        aliases=aliases,
    )


def _untied(model: Any, stored: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """One name of each parameter, the folder's where it is tied; and the folder's further names of tied ones."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    names: list[str] = []
    aliases: dict[str, str] = {}
    for group in groups.values():
        theirs = {name: next(iter(in_folder_names(model, {name: _META}))) for name in group if len(group) > 1}
        present = [name for name in theirs if theirs[name] in stored] or group
        names.append(present[0])
        aliases |= {theirs[name]: theirs[present[0]] for name in present[1:] if theirs.get(name) in stored}
    return names, aliases


def in_folder_names(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the model's folder names and splits them (transformers may merge and rename while loading)."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, state))


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: one, or those of the index. Raises ModelLoadError for none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelLoadError(f"{folder} has no model.safetensors and no index of parts. Save the weights so.")
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(names))]


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the folder, without reading it. Raises ModelLoadError."""
    return {name: shape for name, (shape, _) in _headers(folder)}


def _headers(folder: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], torch.dtype]]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - a safetensors file, not a dict
                part = stored.get_slice(name)
                yield name, (tuple(part.get_shape()), _dtype(part.get_dtype()))


def _dtype(name: str) -> torch.dtype:
    from safetensors.torch import _TYPES

    dtype: torch.dtype = _TYPES[name]
    return dtype


def stored_tensors(folder: Path, names: frozenset[str]) -> dict[str, Tensor]:
    """These tensors of the folder as they are stored."""
    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys() if name in names}  # noqa: SIM118
    return found


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Without transformers' bar over the weights."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
