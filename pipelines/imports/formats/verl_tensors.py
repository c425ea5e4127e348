"""verl's tensors (DataProto), put into plain objects: torch.save of {batch, non_tensor_batch, meta_info}.

`DataProto.save_to_disk` writes a pickle of a class (`gen_batch.dp`), the trainer of v1 a TensorDict (`tq_batch.pt`);
both are refused, as opening them runs code. Where verl is installed a DataProto `data` becomes plain with

    torch.save({"batch": dict(data.batch.items()), "meta_info": data.meta_info,
                "non_tensor_batch": {name: list(values) for name, values in data.non_tensor_batch.items()}}, "data.pt")

batch has prompts [B, P] (filled up on the left), responses [B, T] (on the right), attention_mask [B, P + T],
response_mask [B, T] (1 where the model wrote a token), rollout_log_probs [B, T] where the sampler's were kept,
token_level_scores or rm_scores [B, T], whose sum is the reward `score`. non_tensor_batch has uid, a group's name;
reward_model {ground_truth}, data_source, and numbers of the reward function, which are rewards too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import LENGTHS, number
from pipelines.imports.record import Format, ImportSourceError, Place, Record
from pipelines.imports.torch_files import load_plain, plain
from pipelines.imports.values import as_text, rewards_of
from pipelines.rows.fields import list_of, of
from pipelines.rows.read import SourceRow
from pipelines.rows.record import RejectedRow, RowError, RowFileError

_AGAIN = "Put its tensors into plain objects where verl is installed; docs/how-to/import.md has the two lines."
_TENSORS = ("prompts", "responses", "attention_mask", "response_mask")
_SCORES = ("token_level_scores", "rm_scores")
_OWN = frozenset({"uid", "index", "raw_prompt_ids", "__num_turns__"})


def rows(url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]:
    """The rollouts of a file. Raises ImportSourceError for DataProto's own pickle, RowFileError for no such file."""
    name = posixpath.basename(url)
    if name.endswith(".dp"):
        raise ImportSourceError(f"{url} is a pickle of verl's DataProto, and was not opened. {_AGAIN}")
    held = load_plain(url, advice=_AGAIN)
    batch = held.get("batch") if isinstance(held, Mapping) else None
    if not isinstance(batch, Mapping):
        raise RowFileError(f"{url} holds no batch of tensors. {_AGAIN}")
    columns = {key: plain(batch[key]) for key in (*_TENSORS, *_SCORES, "rollout_log_probs") if key in batch}
    others = held.get("non_tensor_batch")
    columns |= {str(key): plain(values) for key, values in others.items()} if isinstance(others, Mapping) else {}
    sizes = {key: len(values) if isinstance(values, list) else None for key, values in columns.items()}
    if "responses" not in columns or len(set(sizes.values())) != 1:
        raise RowFileError(f"{url}: a batch has one row of each for every rollout; it has {sizes!r:.300}. {_AGAIN}")
    meta = held.get("meta_info")
    temperature = meta.get("temperature") if isinstance(meta, Mapping) else None
    for at in range(skip, len(columns["responses"])):
        values = {key: rows_[at] for key, rows_ in columns.items()}
        yield SourceRow(where=f"{name} row {at}", number=at, values=values | {"meta_temperature": temperature})


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The row's rollout, without its padding."""
    prompt, response, attended, mask = (list_of(row, name) for name in _TENSORS)
    if len(attended) != len(prompt) + len(response) or len(mask) != len(response):
        raise RowError(
            LENGTHS,
            f"{len(prompt)} prompt and {len(response)} response ids, {len(attended)} values in attention_mask, "
            f"{len(mask)} in response_mask",
        )
    kept = [at for at, there in enumerate(attended[len(prompt) :]) if there]
    if kept != list(range(len(kept))):
        raise RowError("attention_mask", "it leaves out tokens within the response, which is filled up on the right")
    start = attended.index(1) if 1 in attended[: len(prompt)] else len(prompt)
    logprobs = row.get("rollout_log_probs")
    task = row.get("reward_model")
    yield Record(
        group=f"{place.stem}-{of(row, 'uid')}",
        prompt_token_ids=prompt[start:],
        token_ids=response[: len(kept)],
        loss_mask=mask[: len(kept)],
        logprobs=logprobs[: len(kept)] if isinstance(logprobs, list) else None,
        temperature=number(row["meta_temperature"], "meta_info.temperature"),
        answer=as_text(task.get("ground_truth"), "ground_truth") if isinstance(task, Mapping) else None,
        source=as_text(row.get("data_source"), "data_source"),
        rewards=_score(row) | rewards_of(row, but=_OWN | {"meta_temperature"}),
    )


def _score(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The sum of the scores of tokens, of the first kind that there is."""
    name = next((name for name in _SCORES if name in row), None)
    if name is None:
        return {}
    values = [number(value, name) or 0.0 for value in list_of(row, name)]
    return {"score": number(sum(values), "score")}


VERL_TENSORS = Format(
    name="verl_tensors",
    read=read,
    rows=rows,
    about="verl's tensors, put into plain objects",
    files=(".pt", ".dp"),
    ids="all",
    logprobs="some",
    mask="counts",
    group="key",
    temperature="source",
    source="verl 0.10.dev, verl/protocol.py (DataProto) and verl/experimental/agent_loop/agent_loop.py",
)
