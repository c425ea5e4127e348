"""open-instruct's saved rollouts (`--save_traces`): `{run}_rollouts_{shard:06d}.jsonl`.

step, sample_idx, prompt_idx (counted anew in each step), prompt_tokens, response_tokens, reward, advantage,
finish_reason, dataset, ground_truth, request_info, and logprobs where they were kept. There is no mask, so every
response token counts; that is wrong where a tool's output stands in the response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import finish_reason, number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The row's rollout."""
    step, prompt = of(row, "step"), of(row, "prompt_idx")
    if type(step) is not int or type(prompt) is not int:
        raise RowError(FIELDS, f"step is {step!r} and prompt_idx {prompt!r}; whole numbers name the group")
    yield Record(
        prompt_token_ids=list_of(row, "prompt_tokens"),
        token_ids=list_of(row, "response_tokens"),
        logprobs=row.get("logprobs"),
        group=f"{step}-{prompt}",
        answer=as_text(row.get("ground_truth"), "ground_truth"),
        source=as_text(row.get("dataset"), "dataset"),
        finish_reason=finish_reason(row.get("finish_reason")),
        rewards={"reward": number(of(row, "reward"), "reward")},
    )


OPEN_INSTRUCT = Format(
    name="open_instruct",
    read=read,
    about="open-instruct's saved rollouts",
    files=(".jsonl",),
    ids="all",
    logprobs="some",
    mask="assumed",
    group="key",
    source="allenai/open-instruct, rollout saving of grpo_fast.py (2026)",
)
