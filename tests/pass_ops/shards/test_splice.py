"""A file whose columns are copied from other files is the file that encoding them would make."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards import FORMAT_VERSION, footer, open_dataset, splice
from pass_ops.shards.encoding import encoded
from pass_ops.shards.footer import read_footer, write_footer
from pass_ops.shards.splice import StoredPart, spliced

CUTS = [(0, 40), (40, 90), (90, 100)]
STAGE = {"stage": "shape", "format_version": FORMAT_VERSION}


def lists(rng: np.random.Generator, kind: pa.DataType, *, nulls: bool = False, nullable: bool = True) -> pa.Array:
    lengths_R = rng.integers(0, 30, 100)
    ends = np.concatenate(([0], np.cumsum(lengths_R))).astype(np.int32)
    values = pa.array(rng.integers(0, 2, ends[-1])).cast(kind) if nullable else pa.array(rng.random(ends[-1]), kind)
    mask = pa.array(rng.random(100) < 0.2) if nulls else None
    return pa.ListArray.from_arrays(pa.array(ends), values, mask=mask)


@pytest.fixture
def generated() -> pa.Table:
    rng = np.random.default_rng(0)
    words = [f"{chr(97 + i % 7)} {i}" if i % 5 else None for i in range(100)]
    return pa.table(
        {
            "rollout_id": [f"g{i // 4}/{i % 4}" for i in range(100)],
            "text": [f"text {i}" * (i % 9) for i in range(100)],
            "token_ids": lists(rng, pa.int32()),
            "loss_mask": lists(rng, pa.bool_()),
            "behavior_logprobs": lists(rng, pa.float32(), nullable=False),
            "answer": pa.array(words),
            "seed": rng.integers(0, 2**62, 100),
        }
    )


@pytest.fixture
def signal() -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "status": ["ok", "error"] * 50,
            "detail": pa.nulls(100, pa.string()),
            "logprobs": lists(rng, pa.float32(), nulls=True),
            "process_ends": lists(rng, pa.int32(), nulls=True),
            "reward": pa.array(rng.random(100), pa.float32(), mask=rng.random(100) < 0.1),
        }
    )


def stored(table: pa.Table, cuts: list[tuple[int, int]] = CUTS, **changes: object) -> StoredPart:
    """The table as a file of another stage, and as it is read from there."""
    content = encoded(table, cuts, stage="generate", format_version=FORMAT_VERSION)
    part = StoredPart(content=pa.py_buffer(content), table=pq.ParquetFile(io.BytesIO(content)).read(),
                      format_version=FORMAT_VERSION)  # fmt: skip
    return replace(part, **changes)


@pytest.fixture
def encodings(monkeypatch) -> list[list[str]]:
    """The columns of each file with rows that is encoded while splicing."""
    seen: list[list[str]] = []

    def noted(table, *args, **options):
        if len(table):
            seen.append(table.column_names)
        return encoded(table, *args, **options)

    monkeypatch.setattr(splice, "encoded", noted)
    return seen


def made(generated: StoredPart, signal: StoredPart) -> pa.Table:
    """A table of both, under other names where a shaped part has them, with a column of its own in the middle."""
    columns = {name: generated.table[name] for name in generated.table.column_names}
    columns |= {"chunk_ends": lists(np.random.default_rng(2), pa.int32())}
    columns |= {
        "status_x": signal.table["status"],
        "detail_x": signal.table["detail"],
        "reference_logprobs": signal.table["logprobs"],
        "process_ends": signal.table["process_ends"],
        "reward": signal.table["reward"],
        "round": pa.repeat(pa.scalar(3, pa.int32()), 100),
    }
    return pa.table(columns)


def test_the_file_is_the_one_that_encoding_makes_and_only_new_columns_are_encoded(generated, signal, encodings):
    parts = stored(generated), stored(signal)
    table = made(*parts)
    assert spliced(table, CUTS, stored=parts, **STAGE) == encoded(table, CUTS, **STAGE)
    assert encodings == [["chunk_ends", "round"]]


def test_every_other_reader_of_parquet_reads_it(generated, signal):
    import polars as pl

    parts = stored(generated), stored(signal)
    table = made(*parts)
    content = spliced(table, CUTS, stored=parts, **STAGE)
    assert pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True).read().equals(table)
    assert pl.read_parquet(io.BytesIO(content)).equals(pl.from_arrow(table))


def test_a_column_whose_memory_is_another_is_encoded(generated, signal, encodings):
    parts = stored(generated), stored(signal)
    table = made(*parts)
    shuffled = table["seed"].take(pa.array(range(99, -1, -1)))
    table = table.set_column(table.column_names.index("seed"), "seed", shuffled)
    table = table.set_column(
        table.column_names.index("reward"), "reward", pa.array(table["reward"].to_pylist(), pa.float32())
    )
    assert spliced(table, CUTS, stored=parts, **STAGE) == encoded(table, CUTS, **STAGE)
    assert encodings == [["seed", "chunk_ends", "reward", "round"]]


def test_a_part_of_a_column_is_encoded(generated, encodings):
    part = stored(generated)
    table = part.table.slice(40).combine_chunks()
    cuts = [(0, 50), (50, 60)]
    assert spliced(table, cuts, stored=[part], **STAGE) == encoded(table, cuts, **STAGE)
    assert encodings == [table.column_names]


def test_a_name_that_is_encoded_in_another_way_is_encoded(signal, encodings):
    part = stored(signal)
    names = ["status", "text", "entropy", "other_ends", "chunk_ends"]
    table = pa.table(dict(zip(names, part.table.columns, strict=True)))
    table = table.set_column(4, "reward", part.table["reward"])
    assert spliced(table, CUTS, stored=[part], **STAGE) == encoded(table, CUTS, **STAGE)
    assert encodings == [["text", "other_ends"]]


def test_a_column_that_may_be_null_no_more_is_encoded(signal, encodings):
    part = stored(signal)
    schema = part.table.schema.set(0, part.table.schema.field(0).with_nullable(False))
    table = pa.table(part.table.columns, schema=schema)
    assert spliced(table, CUTS, stored=[part], **STAGE) == encoded(table, CUTS, **STAGE)
    assert encodings == [["status"]]


@pytest.mark.parametrize("other", ["row groups", "format", "writer"])
def test_a_file_in_other_row_groups_of_another_format_or_writer_gives_nothing(generated, other, encodings):
    part = stored(generated)
    if other == "row groups":
        part = stored(generated, [(0, 50), (50, 90), (90, 100)])
    elif other == "format":
        part = replace(part, format_version=1)
    else:
        content = part.content.to_pybytes()
        assert content.count(b"parquet-cpp-arrow") == 1
        part = replace(part, content=pa.py_buffer(content.replace(b"parquet-cpp-arrow", b"parquet-cpp-earlier"[:17])))
    assert spliced(part.table, CUTS, stored=[part], **STAGE) == encoded(part.table, CUTS, **STAGE)
    assert encodings == [generated.column_names]


def test_a_nested_column_beside_copied_ones(generated):
    messages = pa.array([[{"role": "user", "content": str(i)}] * (i % 3) for i in range(100)])
    part = stored(generated.append_column("messages", messages).append_column("last", generated["seed"]))
    for table in (part.table, part.table.set_column(7, "messages", messages)):
        assert spliced(table, CUTS, stored=[part], **STAGE) == encoded(table, CUTS, **STAGE)


def test_a_damaged_file_is_not_read(tmp_path, make_dataset, rollouts):
    dataset = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    file = tmp_path / "rollouts" / dataset.parts[0].data
    assert open_dataset(dataset.url).read_stored(0).table.equals(dataset.read_part(0))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptDatasetError, match="is damaged"):
        open_dataset(dataset.url).read_stored(0)
    file.unlink()
    with pytest.raises(CorruptDatasetError, match="is gone"):
        open_dataset(dataset.url).read_stored(0)


integers = st.integers(-(2**63), 2**63 - 1)
leaves = st.one_of(
    st.tuples(st.sampled_from([footer.I16, footer.I32, footer.I64]), integers),
    st.tuples(st.just(footer.BINARY), st.binary(max_size=200)),
    st.tuples(st.just(footer.DOUBLE), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(footer.BYTE), st.binary(min_size=1, max_size=1)),
    st.sampled_from([(footer.TRUE, footer.TRUE), (footer.FALSE, footer.FALSE)]),
)


def structs(values: st.SearchStrategy) -> st.SearchStrategy:
    numbers = st.lists(st.integers(1, 200), unique=True, max_size=6).map(sorted)
    return numbers.flatmap(
        lambda found: st.tuples(*[values] * len(found)).map(lambda filled: dict(zip(found, filled, strict=True)))
    )


def nested(values: st.SearchStrategy) -> st.SearchStrategy:
    several = st.lists(structs(values), max_size=20).map(lambda found: footer.Elements(footer.STRUCT, found))
    texts = st.lists(st.binary(max_size=5), max_size=20).map(lambda found: footer.Elements(footer.BINARY, found))
    whole = structs(values).map(lambda found: (footer.STRUCT, found))
    return st.one_of(whole, st.tuples(st.just(footer.LIST), st.one_of(several, texts)))


@given(structs(st.recursive(leaves, nested, max_leaves=30)))
def test_a_footer_is_read_as_it_was_written(fields):
    assert read_footer(memoryview(b"PAR1" + write_footer(fields))) == fields


def test_a_footer_of_arrows_is_written_as_it_was_read(generated):
    content = encoded(generated, CUTS, **STAGE)
    assert content.endswith(write_footer(read_footer(memoryview(content))))
    assert read_footer(memoryview(content))[3] == (footer.I64, 100)
