"""The part driver on its own: which part is begun when, what is committed, who is blamed."""

from __future__ import annotations

import errno
import gc
import json
import weakref
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from pass_ops import shards
from pass_ops.errors import StoreError
from pass_ops.shards.store import Entry, Store
from pipelines.engines.base import EngineDead
from pipelines.parts.journal import Journals
from pipelines.parts.loop import PartLoop, PartOutput, PartWork, StageAborted, in_background


def output(part: int) -> PartOutput:
    row = {"prompt_id": f"p{part}", "prompt": "1+1=?", "messages": None, "answer": "2", "source": "test", "extra": None}
    return PartOutput(table=pa.Table.from_pylist([row], schema=shards.PROMPTS))


def completed(part: int) -> Future[PartOutput]:
    future: Future[PartOutput] = Future()
    future.set_result(output(part))
    return future


class ScriptedWork(PartWork):
    """Answers a part with the next of its script: "ok", an exception for the future, or "open" (left to the test)."""

    def __init__(self, script: dict[int, list[object]]) -> None:
        self.script = script
        self.begun: list[int] = []
        self.open: dict[int, Future[PartOutput]] = {}

    def setup(self) -> None:
        pass

    def start(self, part: int) -> Future[PartOutput]:
        self.begun.append(part)
        answer = self.script.get(part, ["ok"] * 9).pop(0)
        if answer == "ok":
            return completed(part)
        future: Future[PartOutput] = Future()
        self.open[part] = future
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        return future


@pytest.fixture
def dataset(tmp_path: Path) -> shards.Dataset:
    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=6)
    return shards.create_dataset(str(tmp_path / "out"), spec)


def loop(dataset: shards.Dataset, work: ScriptedWork, *, parts_in_flight: int | None = 2) -> PartLoop:
    return PartLoop(dataset=dataset, work=work, parts_in_flight=parts_in_flight, max_attempts=3)


def done(dataset: shards.Dataset) -> list[int]:
    return sorted(set(range(dataset.spec.parts)) - set(shards.pending_parts(dataset).todo))


def failed(dataset: shards.Dataset) -> dict[int, str]:
    folder = Path(dataset.url) / "_failed"
    records = [json.loads(file.read_text()) for file in folder.glob("*.json")] if folder.exists() else []
    return {record["part"]: record["cause"] for record in records}


def attempt_files(dataset: shards.Dataset) -> list[str]:
    return sorted(file.name.replace(f"-{dataset.fp8}", "") for file in (Path(dataset.url) / "_attempts").glob("*"))


class Remembering(ScriptedWork):
    """Says which parts it began after it was told to look back, and which it was to forget."""

    def __init__(self, script: dict[int, list[object]]) -> None:
        super().__init__(script)
        self.again: list[int] | None = None
        self.forgotten: list[int] = []

    def look_back(self) -> None:
        assert self.again is None, "once for all"
        self.again = []

    def start(self, part: int) -> Future[PartOutput]:
        if self.again is not None:
            self.again.append(part)
        return super().start(part)

    def forget(self, part: int) -> None:
        self.forgotten.append(part)


def test_a_part_begun_before_is_begun_again_and_what_was_kept_of_it_is_forgotten_at_its_commit(
    dataset: shards.Dataset,
) -> None:
    shards.begin_attempt(dataset, 1)  # by a worker that was lost
    work = Remembering({2: [ValueError("no"), "ok"]})
    driver = loop(dataset, work)
    for part in range(3):
        driver.offer(part)
    assert work.forgotten == [0]
    driver.drain()
    assert work.again == [1, 2]
    assert work.forgotten == [0, 1, 2]


def test_what_was_kept_of_a_part_is_forgotten_when_what_was_made_of_it_is_refused(dataset: shards.Dataset) -> None:
    work = Remembering({0: ["open", "ok"]})
    driver = loop(dataset, work)
    driver.offer(0)
    work.open[0].set_result(PartOutput(table=pa.table({"prompt_id": ["p0"]})))  # columns are missing
    driver.drain()
    assert work.forgotten == [0, 0]
    assert done(dataset) == [0]


def test_the_next_part_begins_while_the_first_is_still_under_way(dataset: shards.Dataset) -> None:
    work = ScriptedWork({0: ["open"], 1: ["open"]})
    driver = loop(dataset, work)
    driver.offer(0)
    driver.offer(1)
    assert work.begun == [0, 1]
    assert done(dataset) == []


def test_a_third_part_waits_for_room_and_commits_what_completed_meanwhile(dataset: shards.Dataset) -> None:
    work = ScriptedWork({0: ["open"], 1: ["open"]})
    driver = loop(dataset, work)
    driver.offer(0)
    driver.offer(1)
    work.open[1].set_result(output(1))  # the later part completes first
    driver.offer(2)
    assert work.begun == [0, 1, 2]
    assert done(dataset) == [1]


def test_what_is_complete_is_committed_though_there_is_room_for_more(dataset: shards.Dataset) -> None:
    driver = loop(dataset, ScriptedWork({}), parts_in_flight=9)
    driver.offer(0)
    driver.offer(1)
    assert done(dataset) == [0]


def test_left_open_the_work_says_when_a_part_more_is_of_use(dataset: shards.Dataset) -> None:
    class Asked(ScriptedWork):
        answers: ClassVar = [False, False, True]

        def has_room(self, parts: int) -> bool:
            assert parts == 1
            return self.answers.pop(0)

    work = Asked({0: ["open"], 1: ["open"]})
    driver = loop(dataset, work, parts_in_flight=None)
    driver.offer(0)  # there is always room for the first
    driver.offer(1)  # the second waits, though nothing completes, until the work says so
    assert work.begun == [0, 1]
    assert work.answers == []
    assert done(dataset) == []


def test_parts_in_flight_one_never_begins_a_part_before_the_last_is_committed(dataset: shards.Dataset) -> None:
    work = ScriptedWork({})
    driver = loop(dataset, work, parts_in_flight=1)
    driver.offer(0)
    driver.offer(1)
    assert done(dataset) == [0]
    driver.drain()
    assert done(dataset) == [0, 1]


def test_a_committed_part_is_not_begun_again(dataset: shards.Dataset) -> None:
    shards.commit_part(dataset, 0, output(0).table)
    work = ScriptedWork({})
    driver = loop(dataset, work)
    driver.offer(0)
    driver.drain()
    assert work.begun == []
    assert attempt_files(dataset) == []


def test_a_part_that_raises_is_run_again_alone_after_the_others(dataset: shards.Dataset) -> None:
    work = ScriptedWork({0: [ValueError("bad"), "ok"]})
    driver = loop(dataset, work)
    for part in range(3):
        driver.offer(part)
    driver.drain()
    assert work.begun == [0, 1, 2, 0]
    assert done(dataset) == [0, 1, 2]


def test_a_part_that_raises_three_times_is_given_up_with_its_cause_and_the_others_are_done(
    dataset: shards.Dataset,
) -> None:
    work = ScriptedWork({1: [ValueError("bad row 7")] * 3})
    driver = loop(dataset, work)
    for part in range(4):
        driver.offer(part)
    driver.drain()
    assert done(dataset) == [0, 2, 3]
    assert failed(dataset) == {1: "ValueError: bad row 7"}
    record = json.loads((Path(dataset.url) / "_failed" / f"000001-{dataset.fp8}.json").read_text())
    assert "Traceback" in record["traceback"]
    assert work.begun.count(1) == 3


def test_start_may_raise_instead_of_the_future(dataset: shards.Dataset) -> None:
    class Raises(ScriptedWork):
        def start(self, part: int) -> Future[PartOutput]:
            raise LookupError("no such part")

    driver = loop(dataset, Raises({}))
    driver.offer(0)
    driver.drain()
    assert failed(dataset) == {0: "LookupError: no such part"}


def test_a_table_that_cannot_be_committed_is_the_parts_own_failure(dataset: shards.Dataset) -> None:
    class Wrong(ScriptedWork):
        def start(self, part: int) -> Future[PartOutput]:
            future: Future[PartOutput] = Future()
            future.set_result(PartOutput(table=pa.table({"prompt_id": ["p"]})))
            return future

    driver = loop(dataset, Wrong({}))
    driver.offer(0)
    driver.drain()
    assert failed(dataset)[0].startswith("PartError: ")


def test_suspects_run_last_and_those_with_fewer_attempts_first(dataset: shards.Dataset) -> None:
    for part, attempts in ((0, 2), (1, 1)):
        for _ in range(attempts):
            shards.begin_attempt(dataset, part)
    work = ScriptedWork({})
    driver = loop(dataset, work)
    for part in range(3):
        driver.offer(part)
    driver.drain()
    assert work.begun == [2, 1, 0]
    assert done(dataset) == [0, 1, 2]


def test_a_part_whose_worker_died_three_times_is_given_up_without_a_fourth(dataset: shards.Dataset) -> None:
    for _ in range(3):
        shards.begin_attempt(dataset, 0)
    work = ScriptedWork({})
    driver = loop(dataset, work)
    driver.defer([0])
    driver.drain()
    assert work.begun == []
    assert failed(dataset) == {0: "the worker or its engine died in each of 3 attempts"}


def test_the_attempts_of_killed_commands_count_until_the_part_is_given_up(dataset: shards.Dataset) -> None:
    def command() -> list[int]:
        """A command's run of part 0, which works this time; which parts it began."""
        work = ScriptedWork({})
        driver = loop(shards.create_dataset(dataset.url, dataset.spec), work)
        driver.defer([0])
        driver.drain()
        return work.begun

    for _ in range(3):  # three commands that died with the part in hand
        shards.begin_attempt(shards.create_dataset(dataset.url, dataset.spec), 0)
    assert (command(), list(failed(dataset)), done(dataset)) == ([], [0], [])
    assert (command(), done(dataset)) == ([0], [0])


def test_a_part_tried_afresh_is_given_up_again_after_as_many_attempts(dataset: shards.Dataset) -> None:
    shards.fail_part(dataset, 0, cause="an earlier command", traceback="")
    for _ in range(2):
        shards.begin_attempt(shards.create_dataset(dataset.url, dataset.spec), 0)
    work = ScriptedWork({0: [ValueError("the third")] * 9})
    driver = loop(shards.create_dataset(dataset.url, dataset.spec), work)
    driver.defer([0])
    driver.drain()
    assert (work.begun, failed(dataset)) == ([0], {0: "ValueError: the third"})


def test_the_order_of_suspects_counts_the_attempts_of_earlier_commands(dataset: shards.Dataset) -> None:
    for part, attempts in ((0, 2), (1, 1)):
        for _ in range(attempts):
            shards.begin_attempt(dataset, part)
    work = ScriptedWork({})
    driver = loop(shards.create_dataset(dataset.url, dataset.spec), work)
    driver.defer([0, 1])
    driver.drain()
    assert work.begun == [1, 0]


def test_a_machine_that_gives_out_is_recognized_behind_another_error(dataset: shards.Dataset) -> None:
    wrapped = RuntimeError("the signal could not be made")
    wrapped.__cause__ = MemoryError("1 GiB")
    driver = loop(dataset, ScriptedWork({0: [wrapped]}))
    driver.offer(0)
    with pytest.raises(StageAborted, match="1 GiB"):
        driver.drain()


@pytest.mark.parametrize("error", [MemoryError("1 GiB"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_machine_that_gives_out_stops_the_job_and_no_part_is_blamed(
    dataset: shards.Dataset, error: Exception
) -> None:
    work = ScriptedWork({0: ["open"], 1: [error]})
    driver = loop(dataset, work)
    driver.offer(0)
    driver.offer(1)
    with pytest.raises(StageAborted, match="at part 1"):
        driver.offer(2)
    driver.abandon()  # what Beam's teardown does
    assert failed(dataset) == {}
    assert attempt_files(dataset) == []


def test_a_full_disk_while_committing_stops_the_job(dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise StoreError(errno.ENOSPC, "creating part-000000 failed: No space left on device; free space there")

    monkeypatch.setattr(shards, "commit_part", full)
    driver = loop(dataset, ScriptedWork({}))
    driver.offer(0)
    with pytest.raises(StageAborted, match="No space left on device"):
        driver.drain()


def test_a_dead_engine_stops_the_job_and_the_parts_in_flight_become_suspects(dataset: shards.Dataset) -> None:
    work = ScriptedWork({0: ["open"], 1: [EngineDead("the vllm engine died: out of memory")]})
    driver = loop(dataset, work)
    driver.offer(0)
    driver.offer(1)
    with pytest.raises(StageAborted, match="engine died"):
        driver.drain()
    driver.abandon()
    assert attempt_files(dataset) == ["000000-1.json", "000001-1.json"]


def test_an_interrupted_job_blames_nobody(dataset: shards.Dataset) -> None:
    class Interrupted(ScriptedWork):
        def start(self, part: int) -> Future[PartOutput]:
            if part == 1:
                raise KeyboardInterrupt
            return super().start(part)

    driver = loop(dataset, Interrupted({0: ["open"]}))
    driver.offer(0)
    with pytest.raises(KeyboardInterrupt):
        driver.offer(1)
    driver.abandon()
    assert attempt_files(dataset) == []


def test_in_background_hands_on_result_and_error() -> None:
    assert in_background(int, "7").result() == 7
    with pytest.raises(ValueError, match="seven"):
        in_background(int, "seven").result()


class KeepingAJournal(PartWork):
    """Fails at every part after it has kept something of it, as a stage whose model dies does."""

    def __init__(self, dataset: shards.Dataset) -> None:
        self._journals = Journals(dataset)
        self.read: list[list[str]] = []

    def setup(self) -> None:
        self._journals.look()

    def look_back(self) -> None:
        self._journals.look()

    def start(self, part: int) -> Future[PartOutput]:
        journal = self._journals.begin(part, inputs=str)
        assert journal is not None
        self.read.append(sorted(journal.read()))
        journal.add(f"{part}/{len(self.read)}", b"")
        journal.close()
        raise ValueError(f"part {part}")


def test_parts_that_are_given_up_cost_no_listing_each(tmp_path: Path) -> None:
    """What is listed grows by as many files from 2 to 4 parts as from 4 to 6, and so does every kind of request."""
    seen = [listed_when_all_parts_are_given_up(tmp_path / str(parts), parts) for parts in (2, 4, 6)]
    for counted in seen[2]:
        assert seen[2][counted] - seen[1][counted] == seen[1][counted] - seen[0][counted], counted
    assert seen[2]["list"] == seen[0]["list"]


def listed_when_all_parts_are_given_up(folder: Path, parts: int) -> Counter[str]:
    asked: Counter[str] = Counter()

    class Counted(Store):
        def entries(self, folder: str = "") -> list[Entry]:
            found = super().entries(folder)
            asked["files listed"] += len(found)
            return found

    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=parts)
    store = Counted(str(folder), lambda operation, name: asked.update([operation]))
    made = shards.create_dataset(str(folder), spec, store=store)
    work = KeepingAJournal(made)
    work.setup()
    driver = PartLoop(dataset=made, work=work, parts_in_flight=2, max_attempts=3)
    for part in range(parts):
        driver.offer(part)
    driver.drain()
    assert failed(made) == {part: f"ValueError: part {part}" for part in range(parts)}
    assert {json.loads(file.read_text())["attempts"] for file in (folder / "_failed").iterdir()} == {3}
    assert sorted(map(len, work.read)) == sorted([0, 1, 2] * parts), "each attempt reads what all before it kept"
    return asked


def test_what_another_worker_kept_meanwhile_is_read_when_the_part_is_begun_again(dataset: shards.Dataset) -> None:
    work = KeepingAJournal(dataset)
    work.setup()
    shards.begin_attempt(dataset, 1)  # by a worker that keeps something and is lost
    other = Journals(dataset).begin(1, inputs=str)
    assert other is not None
    other.add("1/other", b"")
    other.close()
    driver = PartLoop(dataset=dataset, work=work, parts_in_flight=2, max_attempts=3)
    driver.offer(1)
    driver.drain()
    assert work.read == [["1/other"], ["1/1", "1/other"]]


class Ended(Exception):
    """An error that holds, as any does, the frames it went through."""


def test_a_part_that_waits_to_be_begun_again_holds_nothing_of_its_attempt(dataset: shards.Dataset) -> None:
    errors: list[weakref.ref[Ended]] = []

    class Failing(ScriptedWork):
        def start(self, part: int) -> Future[PartOutput]:
            error = Ended("rows that cannot be scored")
            errors.append(weakref.ref(error))
            raise error

    driver = loop(dataset, Failing({}))
    driver.offer(0)
    driver.offer(1)  # collects the first
    gc.collect()
    assert errors[0]() is None
    driver.drain()
    assert failed(dataset)[0] == "Ended: rows that cannot be scored"


def test_what_another_command_keeps_while_deferred_parts_run_is_read_too(dataset: shards.Dataset) -> None:
    class Beside(KeepingAJournal):
        """While part 0 runs alone, another command begins part 1, keeps something of it and is lost."""

        def start(self, part: int) -> Future[PartOutput]:
            if len(self.read) == 2:
                shards.begin_attempt(dataset, 1)
                other = Journals(dataset).begin(1, inputs=str)
                assert other is not None
                other.add("1/other", b"")
                other.close()
            return super().start(part)

    work = Beside(dataset)
    work.setup()
    driver = PartLoop(dataset=dataset, work=work, parts_in_flight=2, max_attempts=3)
    for part in range(2):
        driver.offer(part)
    driver.drain()
    assert ["1/2", "1/other"] in work.read
