"""Whole runs: learning, resume, carried state, and what stops or refuses them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.rows import changed, random_rows, split_groups, step_of, without_times
from trainer import TrainOptions, train
from trainer.checkpoint import complete_checkpoints, load_checkpoint
from trainer.distributed import ALONE
from trainer.errors import (
    NonFiniteTrainingError,
    PolicyMismatchError,
    PolicyNotFoundError,
    RunFolderError,
    StateError,
    TrainDataError,
    TrainingStoppedError,
)
from trainer.metrics import read_metrics
from trainer.model_folder import weights_digest
from trainer.policy import load_policy
from trainer.update import learning_rate, make_optimizer

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=4, batch_size=2, epochs=2, kl_coef=0.01, micro_batch_tokens=40, save_every=2,
    device="cpu", tensorboard=False,
)  # fmt: skip


def optimizer_state(folder: Path, policy: str) -> dict:
    """The optimizer state of the newest checkpoint of a run, by parameter number and name."""
    model = load_policy(policy, OPTIONS).model
    optimizer = make_optimizer(model, OPTIONS)
    load_checkpoint(complete_checkpoints(folder / "state")[-1], model=model, optimizer=optimizer, world=ALONE)
    states = optimizer.state_dict()["state"]
    return {(number, name): value for number, state in states.items() for name, value in state.items()}


@pytest.fixture
def shaped(make_shaped) -> str:
    return make_shaped(split_groups(ROWS, 2))


@pytest.fixture
def run(shaped, policy_folder, tmp_path):
    """train() with this file's data, policy and options, into the named folder."""

    def call(out: str, *, options=OPTIONS, policy=policy_folder, **arguments):
        data = arguments.pop("data", [shaped])
        return train(data, policy=policy, out=str(tmp_path / out), options=options, **arguments)

    return call


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_of_positive_advantage_become_likelier_and_negative_ones_rarer(
    make_shaped, policy_folder, tmp_path, temperature
):
    rows = [replace(row, advantages=(1.0, -1.0)) for row in ROWS]

    def logprobs(folder):
        with torch.no_grad():
            (batch,) = step_of(rows, reference=False, temperature=temperature).micro_batches
            return batch, load_policy(folder, OPTIONS).token_outputs(batch).logprobs_N

    batch, before = logprobs(policy_folder)
    sampled, at = [], 0
    for rollout_id in batch.rollout_ids:  # behaviour = the policy itself
        row = next(row for row in rows if row.rollout_id == rollout_id)
        values = [float(before[at + sum(row.mask[:t])]) if row.mask[t] else 0.0 for t in range(len(row.tokens))]
        at += sum(row.mask)
        sampled.append(replace(row, behavior=tuple(values)))
    sampling = {"temperature": temperature, "logprobs_mode": "processed_logprobs"}
    data = make_shaped([sorted(sampled, key=lambda row: row.rollout_id)], sampling=sampling)
    options = replace(OPTIONS, epochs=4, kl_coef=0.0)
    result = train([data], policy=policy_folder, out=str(tmp_path / "out"), options=options)
    _, after = logprobs(result.policy_dir)
    first = read_metrics(tmp_path / "out")[0]
    assert first["ratio_min"] == pytest.approx(1.0, abs=1e-5)
    assert first["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    good = batch.advantages_N > 0
    assert (after - before)[good].mean() > 0.05
    assert (after - before)[~good].mean() < -0.05


def test_the_old_policy_is_recomputed_once_and_the_first_step_is_at_ratio_one(run, tmp_path):
    run("three", options=replace(OPTIONS, old_policy="recompute"))
    first, *_, last = read_metrics(tmp_path / "three")
    assert (first["ratio_min"], first["ratio_max"]) == (pytest.approx(1.0, abs=1e-5), pytest.approx(1.0, abs=1e-5))
    assert last["ratio_max"] > 1.01
    assert first["mismatch"] > 1.1
    assert not (tmp_path / "three" / "old").exists()
    run("two")
    assert read_metrics(tmp_path / "two")[0]["ratio_max"] > 1.1
    assert read_metrics(tmp_path / "two")[0]["mismatch"] is None


def test_a_mismatch_beyond_its_limit_stops_the_run_before_the_first_update(run, make_shaped, tmp_path):
    behavior = tuple(-60.0 if m else 0.0 for m in ROWS[7].mask)
    data = make_shaped([changed(ROWS, 7, behavior=behavior)], name="other")
    options = replace(OPTIONS, old_policy="recompute", max_mismatch=1e9)
    for _ in range(2):  # the audit is kept: a rerun stops at once
        with pytest.raises(TrainingStoppedError, match="max_mismatch 1e") as stopped:
            run("out", data=[data], options=options)
        assert stopped.value.rollout_ids[0] == ROWS[7].rollout_id
    assert not read_metrics(tmp_path / "out")
    assert run("calm", options=options).steps == 6


def test_lost_old_logprobs_are_no_reason_to_take_others(run, tmp_path, monkeypatch):
    options = replace(OPTIONS, old_policy="recompute")

    def stop(done, total, note):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("out", options=options, progress=stop)
    shutil.rmtree(tmp_path / "out" / "old")
    with pytest.raises(StateError, match="old is lost"):
        run("out", options=options)


def test_a_checkpoint_without_its_marker_is_never_picked(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die_at_step_four(path, content):
        if path.name == "step-00000004.json":
            raise Killed
        path.write_text(json.dumps(content))

    with monkeypatch.context() as patched:
        patched.setattr("trainer.checkpoint.write_json", die_at_step_four)
        with pytest.raises(Killed):
            run("out")
    state = tmp_path / "out" / "state"
    assert (state / "step-00000004").is_dir()
    assert [checkpoint.step for checkpoint in complete_checkpoints(state)] == [2]
    assert weights_digest(Path(run("out").policy_dir)) == weights_digest(Path(run("whole").policy_dir))


def test_tied_weights_are_resumed_too(run, tied_policy_folder, tmp_path):
    whole = run("whole", policy=tied_policy_folder)
    run("half", policy=tied_policy_folder)
    state = tmp_path / "half" / "state"
    (state / "step-00000006.json").unlink()
    (tmp_path / "half" / "_done.json").unlink()
    assert [checkpoint.step for checkpoint in complete_checkpoints(state)] == [4]
    assert weights_digest(Path(run("half", policy=tied_policy_folder).policy_dir)) == weights_digest(
        Path(whole.policy_dir)
    )


def test_only_the_newest_checkpoints_stay(run, tmp_path):
    run("out")
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path / "out" / "state")] == [4, 6]
    assert len(list((tmp_path / "out" / "state").iterdir())) == 4


def test_a_finished_run_is_returned_as_it_is(run, tmp_path):
    first = run("out")
    stamp = (tmp_path / "out" / "_done.json").stat().st_mtime_ns
    assert run("out") == first
    assert (tmp_path / "out" / "_done.json").stat().st_mtime_ns == stamp


def test_micro_batches_and_threads_do_not_decide_the_order(run, tmp_path):
    run("a")
    run("b", options=replace(OPTIONS, micro_batch_tokens=400, decode_threads=1, prefetch_steps=1))
    for a, b in zip(without_times(tmp_path / "a"), without_times(tmp_path / "b"), strict=True):
        assert (a["rollouts"], a["tokens"], a["advantage_min"]) == (b["rollouts"], b["tokens"], b["advantage_min"])
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_untrainable_rows_change_nothing(run, make_shaped):
    from tests.trainer.rows import fully_masked, untrainable

    extra = [untrainable(replace(row, rollout_id=f"{row.group}/9")) for row in ROWS if row.rollout_id.endswith("/0")]
    extra += [fully_masked(replace(row, rollout_id=f"{row.group}/8")) for row in ROWS if row.rollout_id.endswith("/0")]
    more = make_shaped(split_groups(sorted([*ROWS, *extra], key=lambda row: row.rollout_id), 2), name="more")
    with_extra, without = run("more", data=[more]), run("plain")
    assert with_extra.metrics["rows_untrainable"] == 12
    assert weights_digest(Path(with_extra.policy_dir)) == weights_digest(Path(without.policy_dir))


def test_the_next_round_goes_on_with_weights_optimizer_and_warm_up(run, tmp_path):
    first = run("first", options=replace(OPTIONS, epochs=1, export_dtype="bfloat16"))
    second = run("second", policy=first.policy_dir, state=str(tmp_path / "first"), options=replace(OPTIONS, epochs=1))
    lines = read_metrics(tmp_path / "second")
    assert [line["update"] for line in lines] == [4, 5, 6]
    assert lines[0]["lr"] == pytest.approx(1e-3)  # the fourth update ends a warm-up of 4
    # Without state, the rounded export is where training starts; with it, the float32 weights are.
    fresh = run("fresh", policy=first.policy_dir, options=replace(OPTIONS, epochs=1))
    assert weights_digest(Path(fresh.policy_dir)) != weights_digest(Path(second.policy_dir))
    assert optimizer_state(tmp_path / "second", first.policy_dir)[0, "step"] == 6
    assert optimizer_state(tmp_path / "fresh", first.policy_dir)[0, "step"] == 3


def test_the_rate_rises_stays_and_falls_to_nothing():
    options = TrainOptions(lr=2.0, warmup_steps=10, decay_share=0.4)
    rates = [learning_rate(step, options, step=step, steps=100) for step in (0, 4, 9, 50, 60, 80, 99)]
    assert rates == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.0, 0.05])
    at_once = TrainOptions(lr=2.0, warmup_steps=0, decay_share=1.0)
    assert [learning_rate(7, at_once, step=step, steps=4) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]
    assert learning_rate(99, replace(options, decay_share=0.0), step=99, steps=100) == 2.0


def test_the_warm_up_counts_over_rounds_and_the_decay_within_each(run, tmp_path):
    options = replace(OPTIONS, warmup_steps=8, decay_share=0.5)
    first = run("first", options=options)
    run("second", options=options, policy=first.policy_dir, state=str(tmp_path / "first"))
    rates = [[line["lr"] for line in read_metrics(tmp_path / out)] for out in ("first", "second")]
    assert rates[0] == pytest.approx([1 / 8e3, 2 / 8e3, 3 / 8e3, 4 / 8e3, 5 / 8e3, 1 / 3e3])
    assert rates[1] == pytest.approx([7 / 8e3, 1e-3, 1e-3, 1e-3, 2 / 3e3, 1 / 3e3])


def test_state_of_another_policy_is_refused(run, policy_folder, tmp_path):
    run("first")
    with pytest.raises(StateError, match="another policy's"):
        run("second", policy=policy_folder, state=str(tmp_path / "first"))


def test_state_of_another_architecture_is_refused_by_key(run, policy_folder, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    run("first")
    config = AutoConfig.from_pretrained(policy_folder)
    config.intermediate_size = 128
    model = AutoModelForCausalLM.from_config(config)
    checkpoint = complete_checkpoints(tmp_path / "first" / "state")[-1]
    with pytest.raises(StateError, match="intermediate_size is 96 there and 128"):
        load_checkpoint(checkpoint, model=model, optimizer=make_optimizer(model, OPTIONS), world=ALONE)


def test_a_folder_that_holds_something_is_not_exported_into(run, policy_folder):
    before = weights_digest(Path(policy_folder))
    with pytest.raises(RunFolderError, match="not empty"):
        run("out", export=policy_folder)
    assert weights_digest(Path(policy_folder)) == before


def test_a_lost_export_is_made_again_from_the_state(run):
    result = run("out")
    digest = weights_digest(Path(result.policy_dir))
    shutil.rmtree(result.policy_dir)
    assert run("out") == result
    assert weights_digest(Path(result.policy_dir)) == digest


@pytest.mark.parametrize("name", ["out", "state", "export"])
def test_a_folder_on_an_object_store_is_refused(shaped, policy_folder, tmp_path, name):
    arguments = {"out": str(tmp_path / "out"), name: "s3://bucket/folder"}
    with pytest.raises(RunFolderError, match=f"{name} is s3://bucket"):
        train([shaped], policy=policy_folder, options=OPTIONS, **arguments)


def test_an_unfinished_round_is_no_state(run, policy_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StateError, match=r"_done\.json"):
        run("second", state=str(tmp_path / "empty"))


def test_changed_bytes_in_a_checkpoint_are_noticed(run, policy_folder, tmp_path):
    run("out")
    checkpoint = complete_checkpoints(tmp_path / "out" / "state")[-1]
    data = next(checkpoint.folder.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(StateError, match=data.name):
        optimizer_state(tmp_path / "out", policy_folder)


def test_a_folder_of_other_data_or_options_is_refused_by_name(run, make_shaped):
    run("out")
    with pytest.raises(StateError, match=r"options\.lr: 0\.001 there, 0\.002 now"):
        run("out", options=replace(OPTIONS, lr=2e-3))
    other = make_shaped([changed(ROWS, 0, advantages=(9.0, 9.0))], name="other")
    with pytest.raises(StateError, match="another datasets"):
        run("out", data=[other])


def test_a_token_outside_the_vocabulary_is_refused_with_its_rollout(run, make_shaped):
    tokens = (*ROWS[4].tokens[:-1], 32)
    data = make_shaped([changed(ROWS, 4, tokens=tokens)], name="other")
    with pytest.raises(TrainDataError, match=rf"{ROWS[4].rollout_id}: token_ids go from .* 0 to 31"):
        run("out", data=[data])


def test_the_policys_digest_is_compared(run):
    with pytest.raises(PolicyMismatchError, match="policy_digest"):
        run("out", policy_digest="q" * 64)


def test_nan_weights_stop_the_run_and_name_the_rollouts(run, policy_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy_folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[ROWS[0].tokens[0]] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(NonFiniteTrainingError, match="log-probability") as stopped:
        run("out", policy=str(tmp_path / "broken"), options=replace(OPTIONS, batch_size=6))
    hit = {row.rollout_id for row in ROWS if ROWS[0].tokens[0] in (*row.prompt, *row.tokens[:-1])}
    assert set(stopped.value.rollout_ids) <= hit
    assert stopped.value.rollout_ids


def test_an_exploded_ratio_stops_the_run_with_the_last_good_state(run, make_shaped, tmp_path):
    behavior = tuple(-200.0 if m else 0.0 for m in ROWS[7].mask)
    data = make_shaped([changed(ROWS, 7, behavior=behavior, advantages=(-1.0, -1.0))], name="other")
    with pytest.raises(NonFiniteTrainingError, match="the loss") as stopped:
        run("out", data=[data], options=replace(OPTIONS, save_every=0))
    assert stopped.value.rollout_ids == (ROWS[7].rollout_id,)
    steps = len(read_metrics(tmp_path / "out"))
    assert [c.step for c in complete_checkpoints(tmp_path / "out" / "state")] == ([steps] if steps else [])


def test_an_exploded_gradient_stops_the_run_and_names_the_rollout(run, make_shaped):
    data = make_shaped([changed(ROWS, 7, advantages=(3e37, 3e37))], name="other")
    with pytest.raises(NonFiniteTrainingError, match="gradient norm") as stopped:
        run("out", data=[data])
    assert stopped.value.rollout_ids == (ROWS[7].rollout_id,)


def test_a_ratio_beyond_its_limit_stops_the_run_and_names_the_rollouts(run, make_shaped, tmp_path):
    behavior = tuple(-14.0 if m else 0.0 for m in ROWS[7].mask)
    data = make_shaped([changed(ROWS, 7, behavior=behavior)], name="other")
    with pytest.raises(TrainingStoppedError, match="stop_ratio 1000") as stopped:
        run("out", data=[data], options=replace(OPTIONS, stop_ratio=1e3))
    assert stopped.value.rollout_ids == (ROWS[7].rollout_id,)
    steps = len(read_metrics(tmp_path / "out"))
    assert [c.step for c in complete_checkpoints(tmp_path / "out" / "state")][-1:] == ([steps] if steps else [])
    assert run("never", data=[data], options=replace(OPTIONS, stop_ratio=float("inf"))).steps == 6


def test_a_ratio_beyond_its_limit_where_the_advantage_is_zero_stops_nothing(run, make_shaped):
    behavior = tuple(-14.0 if m else 0.0 for m in ROWS[7].mask)
    silent = changed(ROWS, 7, behavior=behavior, advantages=(0.0, 0.0))
    data = make_shaped([silent], name="silent")
    assert run("out", data=[data], options=replace(OPTIONS, stop_ratio=1e3)).steps == 6


def test_a_wrong_policy_path_claims_no_folder(run, policy_folder, tmp_path):
    with pytest.raises(PolicyNotFoundError, match=r"no config\.json"):
        run("out", policy=policy_folder + "-typo")
    assert run("out").steps == 6


def test_a_gradient_beyond_its_limit_stops_the_run_with_the_largest_first(run, make_shaped, tmp_path):
    data = make_shaped([changed(ROWS, 7, advantages=(1e5, 1e5))], name="other")
    with pytest.raises(TrainingStoppedError, match="stop_grad_norm 1000") as stopped:
        run("out", data=[data], options=replace(OPTIONS, stop_grad_norm=1e3))
    assert stopped.value.rollout_ids[0] == ROWS[7].rollout_id
