"""Prompts as requests of the OpenAI batch interface, which vLLM's `run-batch` reads too.

One request a prompt: custom_id is the prompt_id. A prompt of messages goes to /v1/chat/completions, one of text to
/v1/completions, since a chat template would change it. Settings are entries of the request's body; `model` is needed.
"""

from __future__ import annotations

import pyarrow as pa

from pass_ops import shards
from pipelines.exports.form import ExportFormat, Settings, json_lines


def encode(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as requests."""
    requests = (
        {
            "custom_id": row["prompt_id"],
            "method": "POST",
            "url": "/v1/completions" if row["messages"] is None else "/v1/chat/completions",
            "body": {
                **settings,
                **({"prompt": row["prompt"]} if row["messages"] is None else {"messages": row["messages"]}),
            },
        }
        for row in table.to_pylist()
    )
    return table.num_rows, json_lines(requests)


OPENAI_BATCH = ExportFormat(
    name="openai-batch",
    summary="prompts as OpenAI batch requests (also vLLM run-batch); settings go into the request's body",
    stage="prompts",
    file="requests-{part:05d}.jsonl",
    encode=encode,
    columns=("prompt_id", "prompt", "messages"),
    settings={
        "model": "the model's name",
        "n": "completions a prompt",
        "temperature": "of sampling",
        "top_p": "of sampling",
        "max_tokens": "of a completion",
        "seed": "of sampling",
        "logprobs": "log-probabilities of the tokens",
    },
    needed=("model",),
)
