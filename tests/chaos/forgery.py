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

from pass_ops.shards.fingerprint import content_digest
from tests.chaos.arena import Arena, Place
from tests.chaos.damage import remove_later
from tests.chaos.outcome import Outcome, failed, settle

OUTSIDE = "outside.parquet"
Row = dict[str, Any]


class Dataset:
    """The records of a stored dataset, to be changed and written back so that they agree with each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = json.loads((folder / "_dataset.json").read_text())["fingerprint"]
        self._manifest = next(folder.glob("_manifest-*.json"))
        self._list = next(folder.glob("_parts-*.jsonl"))
        self.parts: list[Row] = [json.loads(line) for line in self._list.read_text().splitlines()]

    def name(self, part: int, sha256: str) -> str:
        """The name that a part of that content must have here."""
        return f"part-{part:06d}-{self.fingerprint[:8]}-{sha256[:8]}.parquet"

    def write(self) -> None:
        """List of parts, markers and manifest anew; the manifest's digests and totals follow from the list."""
        self._list.write_text("".join(json.dumps(row) + "\n" for row in self.parts))
        for row in self.parts:
            marker = self.folder / "_done" / f"{row['part']:06d}-{self.fingerprint[:8]}.json"
            marker.write_text(json.dumps(row))
        manifest = json.loads(self._manifest.read_text())
        manifest["parts_sha256"] = sha256(self._list.read_bytes()).hexdigest()
        manifest["content_digest"] = content_digest(self.fingerprint, (row["sha256"] for row in self.parts))
        manifest["totals"] |= {"parts": len(self.parts)}
        for name in ("rows", "groups", "tokens", "bytes"):
            manifest["totals"][name] = sum(row[name] for row in self.parts)
        self._manifest.write_text(json.dumps(manifest))


def escapes(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part is named that lies outside of the folder."""
    row = chances.choice(dataset.parts)
    outside = dataset.folder.parent / OUTSIDE
    shutil.copy(dataset.folder / row["data"], outside)
    row["data"] = chances.choice([f"../{OUTSIDE}", str(outside), f"./../{OUTSIDE}"])
    dataset.write()


def wrong_digest(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part's sha256 is another, and its name agrees."""
    row = chances.choice(dataset.parts)
    row["sha256"] = sha256(chances.randbytes(8)).hexdigest()
    name = dataset.name(row["part"], row["sha256"])
    (dataset.folder / row["data"]).rename(dataset.folder / name)
    row["data"] = name
    dataset.write()


def foreign_part(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part of the same stage of another round in place of one, under the name and digest that it then has."""
    row = chances.choice(dataset.parts)
    theirs = Dataset(other).parts[row["part"]]
    content = (other / theirs["data"]).read_bytes()
    (dataset.folder / row["data"]).unlink()
    row |= theirs | {"data": dataset.name(row["part"], theirs["sha256"])}
    (dataset.folder / row["data"]).write_bytes(content)
    dataset.write()


def foreign_manifest(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """The manifest and list of another round, under this one's names."""
    for prefix, suffix in (("_manifest", "json"), ("_parts", "jsonl")):
        mine = dataset.folder / f"{prefix}-{dataset.fingerprint[:8]}.{suffix}"
        shutil.copy(next(other.glob(f"{prefix}-*.{suffix}")), mine)


def wrong_rows(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """A part is said to have other rows than it has."""
    chances.choice(dataset.parts)["rows"] += chances.choice([-1, 1, 1000])
    dataset.write()


def fewer_parts(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """The last part is left out."""
    dataset.parts.pop()
    dataset.write()


def twice(dataset: Dataset, chances: random.Random, other: Path) -> None:
    """One part in place of another, too: its rollouts would count twice."""
    mine, again = chances.sample(dataset.parts, 2)
    content = (dataset.folder / again["data"]).read_bytes()
    (dataset.folder / mine["data"]).unlink()
    part = mine["part"]
    mine |= again | {"part": part, "data": dataset.name(part, again["sha256"])}
    (dataset.folder / mine["data"]).write_bytes(content)
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


# Where every part of one round is unlike that of the other.
UNLIKE = ("rollouts", "shaped")
# A dataset like any other, only not the one that was made; nothing can bring that one back.
ORIGINAL_GONE = ("a foreign part", "a part named twice")


def forged(arena: Arena, chances: random.Random, name: str, *, what: str) -> Outcome:
    """Forge the records of one stage; half of the time the run has to read them again. Nothing outside is lost."""
    place = arena.place(name)
    stage = chances.choice(UNLIKE if what.startswith("a foreign") else STAGES)
    mine, other = (place.run / each / stage for each in chances.sample(["round-000", "round-001"], 2))
    FORGERIES[what](Dataset(mine), chances, other)
    if chances.random() < 0.5:
        remove_later(place, mine / "_manifest")
    outside = mine.parent / OUTSIDE
    before = outside.read_bytes() if outside.exists() else None
    outcome = _named(place, mine) if what in ORIGINAL_GONE else settle(arena, place)
    if before is not None and (not outside.exists() or outside.read_bytes() != before):
        return failed(f"a file outside of the dataset was touched; {outcome}")
    return outcome


def _named(place: Place, dataset: Path) -> Outcome:
    """Whether verify names the dataset."""
    end = place.verify()
    if end.fault:
        return failed(f"verify {end.fault}")
    known = end.code and str(dataset) in end.text
    return Outcome(how="named", words=end.text[-600:]) if known else failed(f"not named by verify: {end.text[-600:]}")


TRIALS = {f"forged: {what}": partial(forged, what=what) for what in FORGERIES}
