"""The names of vLLM's engine arguments and sampling parameters, read from its source: importing it takes seconds.

So an option that does not exist is refused when a configuration is read, on any machine with vLLM installed; where it
is not, the check waits for the machine that starts the engine.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pass_ops.support.nearest import advice
from pipelines.engines.errors import EngineOptionError

# Set from fields of EngineOptions, and of Sampling or by the engine itself, so not to be given in `extra`.
OWN_ARGUMENTS = frozenset(
    {
        *("model", "tokenizer", "dtype", "max_model_len", "max_num_seqs", "logprobs_mode", "seed"),
        *("runner", "pooler_config"),
    }
)
OWN_PARAMETERS = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "max_tokens", "stop", "ignore_eos", "seed"),
        *("n", "logprobs", "prompt_logprobs", "flat_logprobs", "detokenize", "output_kind", "stream_interval"),
        *("skip_special_tokens", "spaces_between_special_tokens"),
    }
)


def check_arguments(extra: Mapping[str, Any]) -> None:
    """Every key is an argument of vLLM's EngineArgs that no option of ours sets. Raises EngineOptionError."""
    _check(extra, known=known_names("engine/arg_utils.py", "EngineArgs"), own=OWN_ARGUMENTS, what="engine argument")


def check_parameters(extra: Mapping[str, Any]) -> None:
    """Every key is a parameter of vLLM's SamplingParams that no option of ours sets. Raises EngineOptionError."""
    known = known_names("sampling_params.py", "SamplingParams")
    _check(extra, known=known, own=OWN_PARAMETERS, what="sampling parameter")


@lru_cache(maxsize=4)
def known_names(file: str, name: str) -> frozenset[str]:
    """The public fields of a class of the installed vLLM; none where it is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = (node.target for node in found.body if isinstance(node, ast.AnnAssign))
    return frozenset(field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_"))


def _check(extra: Mapping[str, Any], *, known: Iterable[str], own: Iterable[str], what: str) -> None:
    known = set(known)
    for name in extra:
        if name in own:
            raise EngineOptionError(f"extra.{name} is set by an option of its own, or by the engine; leave it out.")
        if known and name not in known:
            raise EngineOptionError(f"extra.{name} is no {what} of this vLLM; {advice(name, sorted(known))}")
