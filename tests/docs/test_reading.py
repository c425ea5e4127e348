"""The lines that read shards in other programs give the rows of every round and nothing else, as printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, blocks
from tests.trainer.rows import changed, random_rows, split_groups, write_shaped

PAGE = DOCS / "how-to" / "read-shards.md"
LINES = {title.partition(":")[0]: body for title, body in blocks(PAGE, "python") if title}
#: how each program counts its rows and lists their ids
IDS: dict[str, Callable[[Any], list[str]]] = {
    "polars": lambda rows: rows["rollout_id"].to_list(),
    "DuckDB": lambda rows: [row[0] for row in rows.project("rollout_id").fetchall()],
    "datasets": lambda rows: list(rows["rollout_id"]),
    "pandas": lambda rows: rows["rollout_id"].to_list(),
    "pyarrow": lambda rows: rows["rollout_id"].to_pylist(),
    "passrl": lambda rows: rows["rollout_id"].to_pylist(),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Two rounds of two parts, the second without reference log-probabilities; gives the ids of each round."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    ids = []
    for number in range(2):
        rows = random_rows(groups=4, size=3, seed=number)
        if number:
            for row in range(len(rows)):
                rows = changed(rows, row, reference=None)
        write_shaped(f"runs/demo/round-{number:03d}/shaped", split_groups(rows, 2))
        ids.append([row.rollout_id for row in rows])
    return ids


def run(code: str) -> Any:
    names: dict[str, Any] = {}
    exec(code, names)
    return names["rows"]


def test_the_page_has_a_line_for_each_program():
    assert LINES.keys() == IDS.keys()


@pytest.mark.parametrize("program", IDS)
def test_a_line_reads_every_row_of_every_round_once(runs, program):
    wanted = runs[0] if program == "passrl" else runs[0] + runs[1]
    assert sorted(IDS[program](run(LINES[program]))) == sorted(wanted)


def glob_rows(program: str, pattern: str) -> int:
    """How many rows a program's shortest line sees."""
    import duckdb
    import polars as pl
    from datasets import load_dataset

    if program == "polars":
        return pl.read_parquet(pattern).height
    if program == "DuckDB":
        return duckdb.sql(f"SELECT count(*) FROM '{pattern}'").fetchall()[0][0]
    return load_dataset("parquet", data_files=pattern, split="train").num_rows


@pytest.mark.parametrize("program", ["polars", "DuckDB", "datasets"])
def test_the_glob_of_a_folder_is_its_rows(runs, program):
    assert glob_rows(program, "runs/demo/round-000/shaped/*.parquet") == len(runs[0])


def test_every_parquet_file_of_a_folder_is_a_part(runs):
    files = {path.name for path in Path("runs/demo/round-000/shaped").glob("*.parquet")}
    listed = next(Path("runs/demo/round-000/shaped").glob("_parts-*.jsonl")).read_text()
    assert files == {json.loads(line)["data"] for line in listed.splitlines()}


def test_pandas_and_pyarrow_take_the_bare_folder(runs):
    import pandas as pd
    import pyarrow.dataset

    assert len(pd.read_parquet("runs/demo/round-000/shaped")) == len(runs[0])
    assert pyarrow.dataset.dataset("runs/demo/round-000/shaped").count_rows() == len(runs[0])


@pytest.mark.parametrize("program", ["polars", "DuckDB", "datasets"])
def test_the_others_refuse_the_bare_folder_rather_than_miscount(runs, program):
    with pytest.raises(Exception, match=r"extension|exist|Unable to find"):
        glob_rows(program, "runs/demo/round-000/shaped")
