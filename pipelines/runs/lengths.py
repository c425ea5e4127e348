"""Do prompts and completions fit into the model's context, and can its tokenizer spell the prompts?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pass_ops import shards
from pass_ops.shards import Rejection
from pipelines.engines.base import EngineOptions
from pipelines.models.folder import load_tokenizer, read_config
from pipelines.prompts.stage import PromptRow
from pipelines.rollouts.encode import plan_part, unspelled_prompts
from pipelines.rollouts.options import GenerateOptions

# Longer than any context, where the model's is not known.
_ENDLESS = 2**30
# So many prompts are encoded, evenly spread over the source: enough to see what is too long more often than rarely.
LOOKED_AT = 512


def prompt_problems(
    rows: Sequence[PromptRow],
    *,
    policy: str,
    engine: EngineOptions,
    options: GenerateOptions,
    max_reject_rate: float,
) -> Iterator[str]:
    """What does not fit the policy: a context longer than its own, max_tokens that leave no room for a prompt, and more
    than max_reject_rate of the prompts that are too long, or have characters that its tokenizer cannot spell.

    Raises ModelFilesError, and ModuleNotFoundError where the package that encodes prompts is not installed.
    """
    limit = _model_context(policy)
    wanted, most = engine.max_model_len, options.sampling.max_tokens
    if wanted is not None and limit is not None and wanted > limit and engine.kind in ("vllm", "transformers"):
        yield f"engine.max_model_len is {wanted}, but the model {policy} takes at most {limit} tokens"
    context = wanted or limit
    if context is not None and most >= context:
        yield (
            f"sampling.max_tokens is {most}, which leaves no room for a prompt in a context of {context} tokens "
            "(engine.max_model_len); lower it"
        )
        return
    kept = [row for row in rows if isinstance(row, dict)]
    seen = kept[:: max(1, len(kept) // LOOKED_AT)]
    if not seen:
        return
    tokenizer = load_tokenizer(policy)
    planned = plan_part(
        pa.Table.from_pylist(seen, schema=shards.PROMPTS),
        tokenizer=tokenizer,
        options=options,
        max_model_len=context or _ENDLESS,
    )
    lost = unspelled_prompts(planned, tokenizer=tokenizer, options=options)
    if len(lost) > max_reject_rate * len(planned):
        name, characters = next(iter(lost.items()))
        yield (
            f"{len(lost)} of the {len(planned)} prompts looked at have characters that the tokenizer of {policy} "
            f"cannot spell, so that the policy would not see them (the first, {name}: {characters[:40]!r}); "
            f"operations.max_reject_rate is {max_reject_rate}. Take them out, or take a model that knows them"
        )
    rejected = [plan for plan in planned if isinstance(plan, Rejection)]
    if len(rejected) > max_reject_rate * len(planned):
        yield (
            f"{len(rejected)} of the {len(planned)} prompts looked at would be rejected, the first as "
            f"{rejected[0].reason} ({rejected[0].detail}); operations.max_reject_rate is {max_reject_rate}"
        )
    if context is None:
        return
    lengths = [len(plan.token_ids) for plan in planned if not isinstance(plan, Rejection)]
    cramped = [length for length in lengths if length + most > context]
    if len(cramped) > max_reject_rate * len(planned):
        yield (
            f"{len(cramped)} of the {len(planned)} prompts looked at (up to {max(cramped)} tokens) leave less than "
            f"sampling.max_tokens ({most}) of the {context} tokens of context, so that their completions would be cut "
            "short: raise engine.max_model_len, or lower max_tokens or generate.max_prompt_tokens"
        )


def _model_context(policy: str) -> int | None:
    """The longest sequence the model's config allows; None where it does not say, or positions are scaled."""
    config = read_config(policy)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        return None
    limit = config.get("max_position_embeddings")
    return int(limit) if limit is not None else None
