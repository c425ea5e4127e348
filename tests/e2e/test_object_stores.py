"""Stages on stores that are no disk: the datasets are the same, digest for digest."""

from __future__ import annotations

import json
import uuid

import pytest

from pass_ops.shards import Store
from pipelines.cli import main
from pipelines.config import load_config
from trainer import train

STAGES = ("generate", "score", "shape")


def digests(out: str) -> dict[str, str]:
    return json.loads(Store(out).read("lineage.json"))["rounds"][0]["datasets"]


@pytest.fixture
def s3(monkeypatch):
    """A bucket on a real server that speaks S3, on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b",
                        "DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # moto keeps its state as long as the process
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/run"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def memory():
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_stages_on_an_object_store_make_the_same_datasets(project, store, request, capsys):
    out = request.getfixturevalue(store)
    for stage in STAGES:
        assert main([stage, project.config, "--out", project.out]) == 0
        assert main([stage, project.config, "--out", out]) == 0
    assert digests(out) == digests(project.out)
    assert main(["verify", out]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_a_local_training_reads_what_was_shaped_on_an_object_store(project, store, request, tmp_path):
    out = request.getfixturevalue(store)
    for stage in STAGES:
        assert main([stage, project.config, "--out", out]) == 0
    options = load_config(project.config).train
    trained = train(
        [f"{out}/round-000/shaped"], policy=str(project.folder / "model"), out=str(tmp_path / "train"), options=options
    )
    assert trained.steps == options.updates == 2


def test_training_away_from_a_local_disk_is_refused_with_the_reason(project, memory, capsys):
    for stage in STAGES:
        assert main([stage, project.config, "--out", memory]) == 0
    capsys.readouterr()
    assert main(["train", project.config, "--out", memory]) == 2
    assert "local" in capsys.readouterr().err
