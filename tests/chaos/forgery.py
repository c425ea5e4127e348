"""Records that agree with each other and not with the data: as somebody would write them who wants to be believed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.shards.fingerprint import content_digest
from tests.chaos.arena import Arena
from tests.chaos.damage import remove_later
from tests.chaos.outcome import Outcome, failed, settle

OUTSIDE = "outside.parquet"
Row = dict[str, Any]


class Dataset:
    """The records of a stored dataset, to be changed and written back so that they agree with each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = json.loads((folder / "_dataset.json").read_text())
        self._manifest = next(folder.glob("_manifest-*.json"))
        self._list = next(folder.glob("_parts-*.parquet"))
        self.manifest = json.loads(self._manifest.read_text())
        self._schema = pq.read_schema(self._list)
        self.parts: list[Row] = pq.read_table(self._list).to_pylist()

    def write(self) -> None:
        """List of parts, markers and manifest anew; the manifest's digests are computed from what is there."""
        pq.write_table(pa.Table.from_pylist(self.parts, schema=self._schema), self._list)
        self.manifest["parts_sha256"] = sha256(self._list.read_bytes()).hexdigest()
        digests = (row["sha256"] for row in self.parts)
        self.manifest["content_digest"] = content_digest(self.spec["fingerprint"], digests)
        self._manifest.write_text(json.dumps(self.manifest))
        for row in self.parts:
            marker = self.folder / "_done" / f"{row['part']:06d}-{self.spec['fingerprint'][:8]}.json"
            known = json.loads(marker.read_text())
            marker.write_text(json.dumps(known | {name: row[name] for name in ("data", "sha256", "rows", "bytes")}))


def escapes(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part is named that lies outside of the folder."""
    row = chances.choice(dataset.parts)
    shutil.copy(dataset.folder / row["data"], dataset.folder.parent / OUTSIDE)
    row["data"] = chances.choice([f"../{OUTSIDE}", str(dataset.folder.parent / OUTSIDE), f"./../{OUTSIDE}"])
    dataset.write()


def wrong_digest(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part's sha256 is another."""
    chances.choice(dataset.parts)["sha256"] = sha256(chances.randbytes(8)).hexdigest()
    dataset.write()


def foreign_part(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part of the same stage of another round lies under the name of this one's; the records say its digest."""
    row = chances.choice(dataset.parts)
    foreign = chances.choice(sorted(other.glob("part-*")))
    shutil.copy(foreign, dataset.folder / row["data"])
    row["sha256"], row["bytes"] = sha256(foreign.read_bytes()).hexdigest(), foreign.stat().st_size
    dataset.write()


def foreign_manifest(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """The manifest and list of another round, under this one's names."""
    fp8, theirs = dataset.spec["fingerprint"][:8], next(other.glob("_manifest-*.json"))
    shutil.copy(theirs, dataset.folder / f"_manifest-{fp8}.json")
    shutil.copy(next(other.glob("_parts-*.parquet")), dataset.folder / f"_parts-{fp8}.parquet")


def wrong_rows(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part is said to have other rows than it has."""
    chances.choice(dataset.parts)["rows"] += chances.choice([-1, 1, 1000])
    dataset.write()


def fewer_parts(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """The last part is left out."""
    dataset.parts.pop()
    dataset.write()


def twice(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """One part is named in place of another, too: its rollouts would count twice."""
    first, second = chances.sample(range(len(dataset.parts)), 2)
    for name in ("data", "sha256", "rows", "bytes"):
        dataset.parts[first][name] = dataset.parts[second][name]
    dataset.write()


FORGERIES: dict[str, Callable[[Dataset, random.Random, Path], None]] = {
    "a path outside": escapes,
    "a wrong digest": wrong_digest,
    "a foreign part": foreign_part,
    "a foreign manifest": foreign_manifest,
    "a wrong number of rows": wrong_rows,
    "a part left out": fewer_parts,
    "a part named twice": twice,
}
STAGES = ("prompts", "rollouts", "signals/outcome", "signals/format", "signals/steps", "shaped")


def forged(arena: Arena, chances: random.Random, name: str, *, forge: Callable[..., None]) -> Outcome:
    """Forge the records of one stage; half of the time the run has to read them again. Nothing outside is lost."""
    place = arena.place(name)
    stage = chances.choice(STAGES)
    mine, other = (place.run / each / stage for each in chances.sample(["round-000", "round-001"], 2))
    forge(Dataset(mine), chances, other)
    if chances.random() < 0.5:
        remove_later(place, mine / "_manifest")
    outside = mine.parent / OUTSIDE
    before = outside.read_bytes() if outside.exists() else None
    outcome = settle(arena, place)
    if before is not None and (not outside.exists() or outside.read_bytes() != before):
        return failed(f"a file outside of the dataset was touched; {outcome}")
    return outcome


TRIALS = {f"forged: {what}": partial(forged, forge=forge) for what, forge in FORGERIES.items()}
