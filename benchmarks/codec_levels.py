"""Size and time of a shaped part under other codecs and levels, beside those it is stored with: one JSON object a line.

    python benchmarks/codec_levels.py RUN/round-000/shaped [--part 0] [--repeats 3]

Bytes a token of the whole file, and processor nanoseconds a token to encode and to decode it, the least of the repeats,
taken in turns. `stored` is what the project writes: zstd of level 3 for token ids, positions and text, of level 1 for
everything else; every other row has one codec and level for all columns. Encodings are the same everywhere.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.shards import FORMAT_VERSION, open_dataset
from pass_ops.shards.encoding import writer_options
from pass_ops.shards.tables import ROWS_PER_ROW_GROUP

CODECS: dict[str, dict[str, Any]] = {
    "stored": {},
    "none": {"compression": "none", "compression_level": None},
    "lz4": {"compression": "lz4", "compression_level": None},
    **{f"zstd {level}": {"compression_level": level} for level in (-5, 1, 3, 6)},
}


def main() -> None:
    """Print one line a codec."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shaped", help="a shaped dataset")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    dataset = open_dataset(given.shaped)
    table, tokens = dataset.read_part(given.part), dataset.parts[given.part].tokens
    best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in CODECS}
    size: dict[str, int] = {}
    for _ in range(given.repeats):
        for name, changed in CODECS.items():
            started = time.process_time()
            content = encoded(table, changed)
            written = time.process_time()
            pq.read_table(io.BytesIO(content))
            read = time.process_time()
            size[name] = len(content)
            best[name] = [min(best[name][0], written - started), min(best[name][1], read - written)]
    for name, (encode, decode) in best.items():
        line = {"metric": f"codec: {name}", "value": round(size[name] / tokens, 3), "unit": "bytes/token"}
        times = {"encode_ns": round(1e9 * encode / tokens, 1), "decode_ns": round(1e9 * decode / tokens, 1)}
        print(json.dumps(line | times | {"against": "stored", "ratio": round(size[name] / size["stored"], 3),
                                         "tokens": tokens}), flush=True)  # fmt: skip


def encoded(table: pa.Table, changed: dict[str, Any]) -> bytes:
    """The table as a Parquet file, with some of the writer's options changed."""
    sink = io.BytesIO()
    options = writer_options(table.schema, format_version=FORMAT_VERSION) | changed
    pq.write_table(table, sink, row_group_size=ROWS_PER_ROW_GROUP, **options)
    return sink.getvalue()


if __name__ == "__main__":
    main()
