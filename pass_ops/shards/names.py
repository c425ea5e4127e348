"""Names on disk (docs/spec/contract.md section 2). Only names of the dataset's own fp8 exist for a reader."""

from __future__ import annotations

import re
from dataclasses import dataclass

DATASET = "_dataset.json"
RUN_RECORD = "_run.json"
DONE, REJECTED, ATTEMPTS, FAILED, JOURNAL = "_done", "_rejected", "_attempts", "_failed", "_journal"
FOLDERS = (DONE, REJECTED, FAILED, ATTEMPTS, JOURNAL)

_PATTERNS = {
    "": re.compile(r"part-(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})-[0-9a-f]{8}\.parquet"),
    DONE: re.compile(r"(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})\.json"),
    REJECTED: re.compile(r"(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})-[0-9a-f]{8}\.parquet"),
    ATTEMPTS: re.compile(r"(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})-(?P<number>\d+)\.json"),
    FAILED: re.compile(r"(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})\.json"),
    JOURNAL: re.compile(r"(?P<part>\d{6,})-(?P<fp8>[0-9a-f]{8})-[0-9a-f]{12}-\d+\.bin"),
}
_SUMMARY = re.compile(r"_(?:parts|manifest|deleted)-(?P<fp8>[0-9a-f]{8})\.(?:parquet|jsonl?)")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class PartName:
    """What a file name of one part says; `number` is the attempt's."""

    part: int
    fp8: str
    number: int = 0


def data(part: int, fp8: str, sha256: str) -> str:
    return f"part-{part:06d}-{fp8}-{sha256[:8]}.parquet"


def done(part: int, fp8: str) -> str:
    return f"{DONE}/{part:06d}-{fp8}.json"


def rejected(part: int, fp8: str, sha256: str) -> str:
    return f"{REJECTED}/{part:06d}-{fp8}-{sha256[:8]}.parquet"


def attempt(part: int, fp8: str, number: int) -> str:
    return f"{ATTEMPTS}/{part:06d}-{fp8}-{number}.json"


def failed(part: int, fp8: str) -> str:
    return f"{FAILED}/{part:06d}-{fp8}.json"


def journal(part: int, fp8: str, writer: str, segment: int) -> str:
    return f"{JOURNAL}/{part:06d}-{fp8}-{writer}-{segment}.bin"


def parts(fp8: str, format_version: int) -> str:
    """The list of parts; no Parquet since version 2, so that `*.parquet` in a dataset's folder is its rows."""
    return f"_parts-{fp8}.{'parquet' if format_version == 1 else 'jsonl'}"


def manifest(fp8: str) -> str:
    return f"_manifest-{fp8}.json"


def deleted(fp8: str) -> str:
    """Why the rows of a complete dataset are gone."""
    return f"_deleted-{fp8}.json"


def parse(folder: str, name: str) -> PartName | None:
    """The part a file of `folder` ("" for data) belongs to; None for any other file."""
    found = _PATTERNS[folder].fullmatch(name)
    if found is None:
        return None
    fields = found.groupdict()
    return PartName(int(fields["part"]), fields["fp8"], int(fields.get("number") or 0))


def is_temporary(name: str) -> bool:
    """Whether a file is one that the store was writing."""
    return _TEMPORARY.fullmatch(name) is not None


def fingerprint_of(folder: str, name: str) -> str | None:
    """The fp8 in a name, of temporary files left by a killed writer too; None where there is none."""
    temporary = _TEMPORARY.fullmatch(name)
    name = temporary["name"] if temporary else name
    found = _PATTERNS[folder].fullmatch(name) or (_SUMMARY.fullmatch(name) if not folder else None)
    return found["fp8"] if found else None
