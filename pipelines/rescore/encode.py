"""Token ids for stored texts: what `import --tokenizer` does, for rollouts that are stored already."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.shards import Rejection
from pipelines.imports.encode import TURNS, PromptForm, with_tokens
from pipelines.models.folder import chat_template_digest, tokenizer_digest
from pipelines.models.source import local_model

#: columns that are made from texts
ENCODED = ("prompt_token_ids", "token_ids", "loss_mask")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """By which tokenizer, a folder, and in which form of the prompt."""

    tokenizer: str
    form: PromptForm = field(default_factory=PromptForm)

    def environment(self) -> dict[str, Any]:
        """What decides the ids, as a worker has it."""
        folder = local_model(self.tokenizer)
        return {
            "tokenizers": version("tokenizers"),
            "encoding_tokenizer": tokenizer_digest(folder),
            "encoding_chat_template": chat_template_digest(folder),
        }

    def encoded(self, rollouts: pa.Table, prompts: pa.Table) -> tuple[pa.Table, list[Rejection]]:
        """The rollouts with ids where they had none; and those that cannot be encoded."""
        found, wrong = with_tokens(_with_tasks(rollouts, prompts), local_model(self.tokenizer), self.form)
        for name in ENCODED:
            rollouts = rollouts.set_column(rollouts.column_names.index(name), name, found[name])
        ids, indices = rollouts["group_id"].to_pylist(), rollouts["sample_index"].to_pylist()
        rejected = [
            Rejection(prompt_id=ids[at], sample_index=indices[at], reason=error.reason, detail=str(error))
            for at, error in sorted(wrong.items())
        ]
        kept = pa.array([at not in wrong for at in range(len(rollouts))])
        return rollouts.filter(kept), rejected


def _with_tasks(rollouts: pa.Table, prompts: pa.Table) -> pa.Table:
    """The rollouts with prompt, messages (JSON) and turns, as the encoder of imports reads them."""
    tasks = prompts.take(pc.index_in(rollouts["group_id"], value_set=prompts["prompt_id"].combine_chunks()))
    messages = [None if one is None else json.dumps(one, ensure_ascii=False) for one in tasks["messages"].to_pylist()]
    table = rollouts.append_column("prompt", tasks["prompt"])
    table = table.append_column("messages", pa.array(messages, pa.string()))
    if TURNS in table.column_names:
        return table
    return table.append_column(TURNS, pa.repeat(pa.scalar(1, pa.int32()), len(table)))
