"""Stages on stores that are no disk: the datasets are the same, digest for digest."""

from __future__ import annotations

import json
import uuid
from collections import Counter

import pytest

from pass_ops.shards import Store
from pipelines.cli.parser import main
from pipelines.engines import EngineOptions, Sampling
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, generate
from pipelines.runs.config import load_config
from trainer import train

STAGES = ("generate", "score", "shape")


def digests(out: str) -> dict[str, str]:
    return json.loads(Store(out).read("lineage.json"))["rounds"][0]["datasets"]


@pytest.fixture
def s3(bucket):
    """The folder of a run on a real server that speaks S3, on this machine."""
    return f"{bucket}/run"


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


def test_a_part_more_costs_three_puts_and_reads_of_its_input(s3, tiny_model, tmp_path):
    """Requests of the generate stage that grow with its parts: from 4 parts to 20, per part."""
    sent: Counter[str] = Counter()

    def count(request, **_):
        sent["LIST" if "list-type" in request.url else request.method] += 1

    Store(s3).fs.s3.meta.events.register("before-send.s3", count)
    counted = {}
    for parts in (4, 20):
        file, prompts = tmp_path / f"{parts}.jsonl", f"{s3}/{parts}/prompts"
        file.write_text("".join(f'{{"prompt": "{i}+1=?"}}\n' for i in range(parts)))
        write_prompts(PromptSource(source=str(file), prompts_per_part=1), out=prompts)
        sent.clear()
        generate(
            prompts=prompts,
            out=f"{s3}/{parts}/rollouts",
            model=tiny_model,
            engine=EngineOptions(kind="recorded", recording="synthetic:1"),
            options=GenerateOptions(group_size=2, sampling=Sampling(max_tokens=8)),
        )
        counted[parts] = Counter(sent)
    more = {verb: (counted[20][verb] - counted[4][verb]) / 16 for verb in counted[20]}
    assert more["PUT"] == 3  # the attempt, the data, the marker
    # Marker and earlier attempt are looked for, the input is read whole, the marker read for the manifest.
    assert more["GET"] + more["HEAD"] == 4
    assert more["LIST"] < 0.1


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


def trained_in(out: str) -> dict[str, bytes]:
    """What a round's training leaves for others, but for what depends on the clock."""
    store = Store(f"{out}/round-000")
    done = json.loads(store.read("train/_done.json"))
    kept = {name: store.read(f"policy/{name}") for name in ("config.json", "model.safetensors", "tokenizer.json")}
    return kept | {"policy_weights": done["policy_weights"].encode()}


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_a_run_in_an_object_store_trains_on_this_machine_and_leaves_what_a_local_one_leaves(
    project, store, request, tmp_path, monkeypatch, capsys
):
    out = request.getfixturevalue(store)
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "one"))
    command = "rounds" if store == "memory" else "run"
    assert main([command, project.config, "--out", project.out]) == 0
    assert main([command, project.config, "--out", out]) == 0, capsys.readouterr().err
    assert digests(out) == digests(project.out)
    assert trained_in(out) == trained_in(project.out)
    assert main(["verify", out]) == 0, capsys.readouterr().out
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "another"))  # as another machine that takes the run up
    before = Store(out).read("lineage.json")
    monkeypatch.setattr("trainer.run.load_policy", None)  # nothing is trained again
    assert main([command, project.config, "--out", out]) == 0, capsys.readouterr().err
    assert json.loads(Store(out).read("lineage.json")) == json.loads(before)


def test_a_machine_that_takes_over_a_training_goes_on_from_the_checkpoint_in_the_store(
    project, memory, tmp_path, monkeypatch
):
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "lost"))
    for stage in STAGES:
        assert main([stage, project.config, "--out", memory]) == 0
        assert main([stage, project.config, "--out", project.out]) == 0
    assert main(["train", project.config, "--out", project.out]) == 0
    with monkeypatch.context() as broken:
        broken.setattr("trainer.run.export_policy", lambda *_, **__: (_ for _ in ()).throw(OSError("power cut")))
        assert main(["train", project.config, "--out", memory]) == 1
    there = Store(f"{memory}/round-000/train")
    assert there.exists("state/step-00000002.json")
    assert not there.exists("_done.json")
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "taking over"))
    monkeypatch.setattr("trainer.run.backward", None)  # no step is taken again
    assert main(["train", project.config, "--out", memory]) == 0
    assert trained_in(memory) == trained_in(project.out)


def test_a_training_that_differs_is_named_by_its_place_in_the_store(project, memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "cache"))
    for stage in (*STAGES, "train"):
        assert main([stage, project.config, "--out", memory]) == 0
    assert main(["train", project.config, "--out", memory, "--set", "train.lr=0.5"]) != 0
    assert f"{memory}/round-000/train holds a run with another" in " ".join(capsys.readouterr().err.split())


def test_an_export_that_is_not_whole_is_no_policy(project, memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PASSRL_CACHE", str(tmp_path / "cache"))
    assert main(["run", project.config, "--out", memory]) == 0
    Store(f"{memory}/round-000/policy").remove("config.json")  # the last of it to be written
    assert main(["generate", project.config, "--round", "1", "--out", memory]) == 2
    assert "still being written" in " ".join(capsys.readouterr().err.split())
