"""What a dataset of very many parts costs to list, resume, finalize and open: one JSON object a line.

    python benchmarks/bench_parts.py [--parts 100000] [--s3-parts 2000]

On local disk with a real marker and data file for every part. On a server that speaks S3 (moto, in this process) a
smaller dataset is committed by the protocol itself and its requests are counted, in all and scaled to --parts. Seconds
on S3 are not given: the server is a toy.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rows import prompt_row  # noqa: E402
from pass_ops import shards  # noqa: E402
from pass_ops.shards import names  # noqa: E402
from pass_ops.shards.fingerprint import json_file  # noqa: E402

T = TypeVar("T")


def make_dataset(url: str, parts: int) -> shards.Dataset:
    """An empty dataset."""
    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=parts)
    return shards.create_dataset(url, spec)


def table(part: int) -> pa.Table:
    """One row."""
    return pa.Table.from_pylist([prompt_row(part)], schema=shards.PROMPTS)


def commit_all(dataset: shards.Dataset) -> None:
    """Every part but the last, as the protocol would leave it: the first by the protocol, the others copied from it.

    All parts have the same row here; that changes nothing for whoever lists, reads markers or finalizes.
    """
    record = shards.commit_part(dataset, 0, table(0))
    folder = Path(dataset.url)
    content = (folder / record.data).read_bytes()
    for part in range(1, dataset.spec.parts - 1):
        copy = replace(record, part=part, data=names.data(part, dataset.fp8, record.sha256))
        (folder / copy.data).write_bytes(content)
        (folder / names.done(part, dataset.fp8)).write_bytes(json_file(asdict(copy)))


def measured(metric: str, work: Callable[[], T], **sizes: object) -> T:
    """Run it and print seconds and the peak of this process's memory so far."""
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    line = {"metric": metric, "value": round(seconds, 2), "unit": "s", "peak_mib": peak, **sizes}
    print(json.dumps(line), flush=True)
    return result


def on_disk(parts: int) -> None:
    """Local disk."""
    folder = tempfile.mkdtemp(prefix="passrl-parts-")
    dataset = make_dataset(f"{folder}/out", parts)
    measured("parts_written_for_the_benchmark", lambda: commit_all(dataset), parts=parts)
    pending = measured("parts_resume_scan", lambda: shards.pending_parts(dataset), parts=parts)
    assert pending.todo == (parts - 1,)
    measured("parts_status", lambda: shards.status(dataset.url), parts=parts)
    shards.commit_part(dataset, parts - 1, table(parts - 1))
    measured("parts_finalize", lambda: shards.finalize(dataset), parts=parts)
    measured("parts_resume_scan_when_complete", lambda: shards.pending_parts(dataset), parts=parts)
    complete = measured("parts_open_by_a_worker", lambda: shards.open_dataset(dataset.url), parts=parts)
    read = sum(entry.stat().st_size for entry in os.scandir(dataset.url) if entry.name.startswith("_"))
    print(json.dumps({"metric": "parts_bytes_a_worker_reads", "value": read, "unit": "bytes", "parts": parts}))
    assert len(complete.parts) == parts
    print(json.dumps({"metric": "parts_job_graph", "value": graph_bytes(parts), "unit": "bytes", "parts": parts}))


def graph_bytes(parts: int) -> int:
    """Bytes of the submitted graph's part numbers."""
    from pipelines.runners.quiet import beam

    pipeline = beam.Pipeline()
    _ = pipeline | beam.Create(list(range(parts)), reshuffle=False) | beam.Reshuffle()
    return int(pipeline.to_runner_api().ByteSize())


@contextmanager
def s3_server() -> Iterator[tuple[str, Counter[str]]]:
    """A bucket of a local server, and the requests sent to it so far: verb (LIST told from GET) -> count."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                   "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    import s3fs

    filesystem = shards.Store("s3://bucket").fs
    assert isinstance(filesystem, s3fs.S3FileSystem)
    filesystem.mkdir("bucket")
    sent: Counter[str] = Counter()

    def count(request: Any, **_: object) -> None:
        sent["LIST" if "list-type" in request.url else request.method] += 1

    filesystem.s3.meta.events.register("before-send.s3", count)
    try:
        yield "s3://bucket", sent
    finally:
        server.stop()


def on_s3(parts: int, scaled_to: int) -> None:
    """Requests of each thing that is done to a dataset."""
    with s3_server() as (bucket, sent):
        dataset = make_dataset(f"{bucket}/out", parts)

        def counted(metric: str, work: Callable[[], object]) -> None:
            sent.clear()
            work()
            scaled = {verb: round(count * scaled_to / parts) for verb, count in sorted(sent.items())}
            line = {"metric": metric, "value": sum(sent.values()), "unit": "requests", "parts": parts}
            print(json.dumps(line | {"by_verb": dict(sorted(sent.items())), f"at_{scaled_to}": scaled}), flush=True)

        def commit() -> None:
            for part in range(parts):
                shards.begin_attempt(dataset, part)
                shards.commit_part(dataset, part, table(part))

        counted("s3_commit_all", commit)
        counted("s3_resume_scan", lambda: shards.pending_parts(dataset))
        counted("s3_finalize", lambda: shards.finalize(dataset))
        counted("s3_resume_scan_when_complete", lambda: shards.pending_parts(dataset))
        counted("s3_open_by_a_worker", lambda: shards.open_dataset(dataset.url))


def main() -> None:
    """Disk, then S3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--s3-parts", type=int, default=2_000)
    options = parser.parse_args()
    on_disk(options.parts)
    on_s3(options.s3_parts, options.parts)


if __name__ == "__main__":
    main()
