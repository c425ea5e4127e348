"""lm-eval's samples (`--log_samples`): `samples_{task}_{date}.jsonl`.

One row a document and filter: doc_id, doc, target, arguments (the prompt and how it was generated from), resps (a list
of the answers, one a repeat), filtered_resps, filter, metrics (their names), doc_hash, and a value for each metric. The
same answers stand in the rows of several filters, so the filter is part of the group. A metric is of the document: it
is a reward where the document has one answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, rewards_of
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.record import RowError

_DATE = re.compile(r"_\d{4}-\d{2}-\d{2}T.*$")


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The answers to the row's document."""
    prompt, generation = _arguments(of(row, "arguments"))
    requests = list_of(row, "resps")
    if len(requests) != 1 or not isinstance(requests[0], list):
        raise RowError(FIELDS, f"resps holds {len(requests)} requests: choices were scored, and there is no text")
    answers = requests[0]
    task = _DATE.sub("", place.file.rsplit("/", 1)[-1].rsplit(".", 1)[0].removeprefix("samples_"))
    names = list_of(row, "metrics") if "metrics" in row else []
    rewards = rewards_of({name: row.get(name) for name in names})
    for index, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise RowError(FIELDS, f"resps[0][{index}] is {answer!r:.60}, not a text: a score, not an answer")
        yield Record(
            prompt=prompt,
            text=answer,
            group=f"{task}-{of(row, 'doc_id')}-{row.get('filter', 'none')}",
            sample_index=index,
            answer=as_text(row.get("target"), "target"),
            source=task,
            temperature=number(generation.get("temperature"), "temperature"),
            rewards=rewards if len(answers) == 1 else {},
        )


def _arguments(given: Any) -> tuple[str, Mapping[str, Any]]:
    """Prompt and generation arguments: {"gen_args_0": {"arg_0", "arg_1"}}, or [[prompt, arguments]] of older ones."""
    first = next(iter(given.values()), None) if isinstance(given, Mapping) else given[0] if given else None
    parts = list(first.values()) if isinstance(first, Mapping) else first
    if not isinstance(parts, list | tuple) or not parts or not isinstance(parts[0], str):
        raise RowError(FIELDS, f"arguments is {given!r:.60}, which holds no prompt")
    return parts[0], parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}


LM_EVAL = Format(
    name="lm_eval",
    read=read,
    about="lm-eval's logged samples",
    files=(".jsonl",),
    ids="absent",
    logprobs="absent",
    mask="absent",
    group="key",
    temperature="source",
    source="lm-eval 0.4.13, lm_eval/loggers/evaluation_tracker.py and evaluator.py",
)
