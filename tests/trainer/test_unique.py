"""No rollout is there twice: by hashes that may collide, in a few bytes a row, in one pass over the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from trainer.errors import TrainDataError
from trainer.unique import check_unique, hashes_of


@dataclass
class Ids:
    """Sources with the ids of each of their parts; remembers which parts were read."""

    sources: Sequence[Sequence[Sequence[str]]]
    reads: list[int] = field(default_factory=list)

    @property
    def places(self):
        return tuple((s, i) for s, parts in enumerate(self.sources) for i in range(len(parts)))

    def column(self, part):
        source, i = self.places[part]
        return pa.chunked_array([pa.array(self.sources[source][i], pa.string())])

    def read(self, part, columns):
        self.reads.append(part)
        assert tuple(columns) == ("rollout_id",)
        return pa.table({"rollout_id": self.column(part)})

    def describe(self, part):
        return f"source {self.places[part][0]}"

    def hashes(self):
        return [hashes_of(self.column(part)) for part in range(len(self.places))]


PARTS = [["a/0", "a/1"], [], ["b/0", "b/1", "é/0", ""], ["c/0"]]


def test_ids_that_differ_are_told_by_their_hashes_alone():
    data = Ids([PARTS])
    check_unique(data, data.hashes())
    assert data.reads == []


def test_two_ids_of_one_hash_are_no_error():
    data = Ids([PARTS])
    check_unique(data, [np.zeros_like(found) for found in data.hashes()])
    assert data.reads == [0, 2, 3]  # only parts with such ids are read again


@pytest.mark.parametrize("collide", [False, True])
@pytest.mark.parametrize("parts", [[["a/0", "b/0"], ["c/0", "a/0"]], [["b/0"], ["a/0", "c/0", "a/0"]]])
def test_an_id_in_two_parts_or_twice_in_one_is_refused_by_name(parts, collide):
    data = Ids([[["z/0"]], parts])
    hashes = [np.zeros_like(found) for found in data.hashes()] if collide else data.hashes()
    with pytest.raises(TrainDataError, match="Rollout a/0 is there more than once in the dataset of source 1"):
        check_unique(data, hashes)


def test_one_id_in_two_sources_is_no_error():
    data = Ids([[["a/0"]], [["a/0"]]])
    check_unique(data, data.hashes())


def test_the_parts_are_walked_once_however_many_sources_there_are():
    class Counted(tuple):
        walked = 0

        def __iter__(self):
            Counted.walked += 1
            return super().__iter__()

    class Data(Ids):
        places = Counted((s, 0) for s in range(50))

    check_unique(Data([[[f"{s}/0"]] for s in range(50)]), [np.array([s], np.uint64) for s in range(50)])
    assert Counted.walked == 1
