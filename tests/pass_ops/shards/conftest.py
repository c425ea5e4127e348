"""Stores to run the protocol on, and small literal datasets."""

from __future__ import annotations

import itertools
import os
import urllib.request
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from pass_ops.shards import DatasetSpec, create_dataset

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """A bucket on a real S3-speaking server in this process."""
    import s3fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    ours = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    patience, s3fs.S3FileSystem.read_timeout = s3fs.S3FileSystem.read_timeout, 120  # see `bucket` in tests/conftest.py
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        s3fs.S3FileSystem(use_listings_cache=False).mkdir("shards")
        yield "s3://shards"
    finally:
        # The server's buckets are globals of moto: a second session in this process (mutmut's) starts without them.
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        server.stop()
        s3fs.S3FileSystem.read_timeout = patience
        s3fs.S3FileSystem.clear_instance_cache()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _empty_folder(kind: str, request: pytest.FixtureRequest, tmp_path) -> str:
    if kind == "local":
        return str(tmp_path)
    if kind == "memory":
        return f"memory://test-{next(_NUMBERS)}"
    return f"{request.getfixturevalue('s3_bucket')}/test-{next(_NUMBERS)}"


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path) -> str:
    """An empty folder on each kind of store."""
    return _empty_folder(request.param, request, tmp_path)


@pytest.fixture(params=["local", "memory"])
def near_root(request: pytest.FixtureRequest, tmp_path) -> str:
    """An empty folder on the stores that answer at once, for what no store does in a way of its own."""
    return _empty_folder(request.param, request, tmp_path)


@pytest.fixture
def rollouts() -> Callable[..., pa.Table]:
    """rollouts("a", "b"): two rollouts for each group, three tokens and two, one masked."""

    def make(*groups: str, **columns: object) -> pa.Table:
        rows = [
            {
                "group_id": group,
                "sample_index": index,
                "rollout_id": f"{group}/{index}",
                "prompt_token_ids": [1, 2],
                "token_ids": [5, 6, 7][: 3 - index],
                "text": f"answer of {group}",
                "behavior_logprobs": [-0.5, 0.0, -1.5][: 3 - index],
                "loss_mask": [True, False, True][: 3 - index],
                "finish_reason": "stop",
                "seed": 10 * index,
                "answer": None,
            }
            for group in groups
            for index in range(2)
        ]
        for name, values in columns.items():
            for row, value in zip(rows, values, strict=True):
                row[name] = value
        from pass_ops.shards import ROLLOUTS

        return pa.Table.from_pylist(rows, schema=ROLLOUTS)

    return make


@pytest.fixture
def outcomes() -> Callable[..., pa.Table]:
    """outcomes(rollouts): an outcome signal, the first row a timeout."""

    def make(rollouts: pa.Table) -> pa.Table:
        from pass_ops.shards import signal_schema

        rows = [
            {
                "rollout_id": rollout,
                "status": "ok" if index else "timeout",
                "detail": None,
                "outcome_reward": 1.0 if index else None,
                "verify_status": "ok" if index else "timeout",
                "extracted_answer": "42" if index else None,
            }
            for index, rollout in enumerate(rollouts["rollout_id"].to_pylist())
        ]
        return pa.Table.from_pylist(rows, schema=signal_schema("outcome"))

    return make


@pytest.fixture
def generate_spec() -> Callable[..., DatasetSpec]:
    def make(**changes: object) -> DatasetSpec:
        fields = {
            "stage": "generate",
            "stage_version": 1,
            "options": {"min_p": 0.0},
            "parts": 2,
            "seed": 7,
            "carried": {
                "sampling": {"temperature": 1.0, "group_size": 2},
                "round": 0,
                "tokenizer_digest": "t",
                "vocabulary": {"size": 9},
                "policy_digest": "p",
            },
        }
        return DatasetSpec(**{**fields, **changes})

    return make


@pytest.fixture
def make_dataset(generate_spec) -> Callable[..., object]:
    """make_dataset(url, table, table, ...): a finalized generate dataset, one part a table."""
    from pass_ops.shards import commit_part, finalize, open_dataset

    def make(url: str, *tables: pa.Table, spec: DatasetSpec | None = None, rejected=()):
        ds = create_dataset(url, spec or generate_spec(parts=len(tables)))
        for part, table in enumerate(tables):
            commit_part(ds, part, table, rejected=rejected if part == 0 else ())
        finalize(ds, max_reject_rate=1.0)
        return open_dataset(url)

    return make
