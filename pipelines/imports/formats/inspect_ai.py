"""inspect_ai's logs: `.eval`, a zip archive with one JSON file a sample (`samples/{id}_epoch_{n}.json`).

A sample has id, epoch, input (a text or messages), target, messages, output {model, choices [{message, stop_reason}]},
scores {name: {value}}, metadata. Epochs of a sample are its group. Scores are numbers, or letters as inspect_ai reads
them: C 1, P 0.5, I and N 0. The archives are compressed with zstd, which Python's zipfile does not know before 3.14:
the entries are decompressed by Arrow.
"""

from __future__ import annotations

import posixpath
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pass_ops.shards import Store
from pipelines.imports.check import finish_reason
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_messages, as_text, completion_text, rewards_of, said_or_text
from pipelines.rows.fields import FIELDS, list_of, object_of, of
from pipelines.rows.read import MAX_ROW_BYTES, SourceRow, parsed_row
from pipelines.rows.record import RejectedRow, RowError, RowFileError

_ZSTD = 93
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


def rows(url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]:
    """The samples of an archive, in the order of their names. Raises RowFileError."""
    store = Store(url)
    try:
        with store.open("") as stream, zipfile.ZipFile(cast(BinaryIO, stream)) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.startswith("samples/")]
            for number_, entry in enumerate(entries[skip:], start=skip + 1):
                where = f"{posixpath.basename(url)}:{entry.filename}"
                if entry.file_size > MAX_ROW_BYTES:
                    detail = f"it is longer than {MAX_ROW_BYTES // 2**20} MiB"
                    yield RejectedRow(where=where, reason="gigantic", detail=detail)
                    continue
                try:
                    content = _content(cast(BinaryIO, stream), archive, entry)
                except (OSError, pa.ArrowException, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
                    yield RejectedRow(where=where, reason="zip", detail=f"it cannot be decompressed: {error}")
                    continue
                yield parsed_row(content, where, number_)
    except zipfile.BadZipFile as error:
        raise RowFileError(
            f"{url} is no zip archive ({error}). Give an .eval file; convert .json logs to it."
        ) from error
    except OSError as error:
        raise RowFileError(f"{url} cannot be read: {error.strerror or error}.") from error


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The sample's rollout."""
    if row.get("error"):
        raise RowError("aborted", "the sample ended with an error")
    output = object_of(row, "output")
    choices = list_of(output, "choices")
    if not choices:
        raise RowError(FIELDS, "output.choices is empty: the model answered nothing")
    asked, messages = of(row, "input"), row.get("messages")
    text, turns, task = _said(asked, messages, choices[-1])
    epoch = row.get("epoch")
    yield Record(
        text=text,
        turns=turns,
        group=str(of(row, "id")),
        sample_index=epoch - 1 if type(epoch) is int and epoch > 0 else None,
        answer=as_text(row.get("target"), "target"),
        model=as_text(output.get("model"), "output.model"),
        finish_reason=finish_reason(choices[-1].get("stop_reason")),
        rewards=_grades(row.get("scores")),
        **task,
    )


def _said(asked: Any, messages: Any, choice: Mapping[str, Any]) -> tuple[str, int, dict[str, Any]]:
    """The completion, its messages, and the task: what stands before the first message of the assistant."""
    if not isinstance(messages, list) or not messages:
        text, turns = completion_text([object_of(choice, "message")], "output.choices[0].message")
        return text, turns, said_or_text(asked, "input")
    said = as_messages(messages, "messages")
    first = next((at for at, message in enumerate(said) if message["role"] == "assistant"), len(said))
    if first in (0, len(said)):
        raise RowError(FIELDS, "messages holds no answer of the assistant behind a question")
    answers = said[first:]
    return "\n\n".join(message["content"] for message in answers), len(answers), {"messages": said[:first]}


def _grades(scores: Any) -> dict[str, float | None]:
    """Scores by name: numbers, and letters as inspect_ai reads them."""
    values = {
        name: score.get("value") if isinstance(score, Mapping) else score
        for name, score in (scores.items() if isinstance(scores, Mapping) else ())
    }
    letters = {name: _GRADES.get(value) for name, value in values.items() if isinstance(value, str)}
    return {**letters, **rewards_of(values)}


def _content(stream: BinaryIO, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type != _ZSTD:
        return archive.read(entry)
    stream.seek(entry.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("its local header is damaged")
    stream.seek(name + extra, 1)
    packed = stream.read(entry.compress_size)
    return bytes(pa.Codec("zstd").decompress(packed, entry.file_size, asbytes=True))


INSPECT_AI = Format(
    name="inspect_ai",
    read=read,
    rows=rows,
    about="inspect_ai's .eval logs",
    files=(".eval",),
    ids="absent",
    logprobs="absent",
    mask="absent",
    group="key",
    tokenizer="source",
    source="inspect_ai 0.3.285, inspect_ai/log/_log.py (EvalSample) and _recorders/eval.py",
)
