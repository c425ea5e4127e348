"""Re-scored runs: ids and log-probabilities against transformers' own, signals beside them, and training on them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pass_ops import Weights, shards
from pass_ops.errors import NotFinalized
from pipelines.cli import main
from pipelines.engines.base import EngineOptions
from pipelines.engines.driver import DrivenEngine
from pipelines.imports.encode import PromptForm
from pipelines.models.folder import VocabularyMismatchError, model_digest, vocabulary
from pipelines.parts.loop import StageAborted
from pipelines.parts.operations import Operations
from pipelines.rescore import stage
from pipelines.rescore.describe import RescoreError
from pipelines.rescore.run import RescoreOptions, rescore
from pipelines.runs.verify import verify
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from pipelines.signals.base import build_signal
from pipelines.signals.stage import score
from tests.e2e.project import make_project
from tests.pipelines.imports.conftest import Run
from trainer import TrainOptions, train
from trainer.errors import PolicyMismatchError, TrainDataError

ENGINE = EngineOptions(kind="transformers", dtype="float32", device="cpu")
PAIRS = [("2+3=", "5", 1.0), ("2+3=", "6\n", 0.0), ("1+4=", "the answer is 5", 1.0), ("1+4=", "no", 0.0)]
COLUMNS = ("response=completion", "reward.right=right")


def completions(pairs=PAIRS) -> list[dict]:
    """Rows as TRL 1.16 writes them."""
    return [{"step": 0, "prompt": p, "completion": c, "right": r, "advantage": 0.0} for p, c, r in pairs]


def rows(pairs=PAIRS, **more: object) -> list[dict]:
    return [{"prompt": p, "completion": c, "right": r, **more} for p, c, r in pairs]


def rescored(run: Run, tmp_path: Path, *, out: str = "new", max_reject_rate: float = 0.05, **options) -> Run:
    url = str(tmp_path / out)
    operations = Operations(max_reject_rate=max_reject_rate)
    made = rescore(run.url, out=url, options=RescoreOptions(engine=ENGINE, **options), operations=operations)
    return Run(url, made)


@torch.inference_mode()
def plain_logprobs(model: str, row: dict, *, temperature: float = 1.0) -> list[float]:
    """One forward pass of transformers over prompt and completion, nothing of ours."""
    ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
    logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(ids).logits[0] / temperature
    start = len(row["prompt_token_ids"])
    return [logits[at - 1].log_softmax(-1)[ids[0, at]].item() for at in range(start, ids.shape[1])]


def shape(run: Run) -> str:
    shape_dataset(
        rollouts=run.folder("rollouts"),
        signals=run.folder("signals"),
        out=run.folder("shaped"),
        options=ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0)),
    )
    return run.folder("shaped")


def test_texts_of_trl_become_data_to_train_on(import_run, parquet, tiny_model, tmp_path) -> None:
    run = rescored(import_run("trl", parquet(completions())), tmp_path, model=tiny_model, temperature=1.0)

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    stored = run.rows("rollouts")
    assert [r["token_ids"] for r in stored] == [tokenizer(c, add_special_tokens=False).input_ids for _, c, _ in PAIRS]
    for row in stored:
        assert row["behavior_logprobs"] == pytest.approx(plain_logprobs(tiny_model, row), abs=1e-5)
    block = run.block()
    assert (block["ids"], block["logprobs"], block["temperature"]) == ("re-encoded", "recomputed", "given")
    assert block["unknown"] == ["finish_reason", "seed"]
    assert [s["outcome_reward"] for s in run.rows("signals", "right")] == [1.0, 0.0, 1.0, 0.0]
    assert [finding for finding in verify(run.url) if finding.severity == "error"] == []

    shaped, policy = (
        shape(run),
        {"policy_digest": model_digest(tiny_model), "vocabulary": asdict(vocabulary(tiny_model))},
    )
    options = {"updates": 1, "lr": 1e-3, "warmup_steps": 0}

    def trained(**more: str):
        settings = TrainOptions(**options, **more)
        return train([shaped], policy=tiny_model, out=str(tmp_path / "train"), options=settings, **policy)

    with pytest.raises(PolicyMismatchError, match="off_policy to 'accept'"):
        trained(imported_logprobs="accept")
    with pytest.raises(TrainDataError, match=rf"are recomputed \(by {tiny_model}\).*imported_logprobs to 'accept'"):
        trained(off_policy="accept")
    result = trained(imported_logprobs="accept", off_policy="accept")
    assert model_digest(result.policy_dir) != model_digest(tiny_model)
    # the trainer's own forward pass agrees with what was stored: the policy is where the sampler was
    assert result.metrics["behavior_kl"] == pytest.approx(0.0, abs=1e-8)


def test_at_another_temperature_the_logits_are_divided_by_it(import_run, jsonl, tiny_model, tmp_path) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS, temperature=0.7)
    run = rescored(imported, tmp_path, model=tiny_model)
    for row in run.rows("rollouts"):
        assert row["behavior_logprobs"] == pytest.approx(plain_logprobs(tiny_model, row, temperature=0.7), abs=1e-5)
    sampling = shards.open_dataset(run.folder("rollouts")).spec.carried["sampling"]
    assert (sampling["temperature"], sampling["logprobs_mode"]) == (0.7, "processed_logprobs")
    with pytest.raises(RescoreError, match=r"temperature 0\.7, --temperature says 1\.0"):
        rescored(imported, tmp_path, model=tiny_model, temperature=1.0)
    with pytest.raises(RescoreError, match="kind=transformers"):
        rescore(imported.url, out=str(tmp_path / "vllm"), options=RescoreOptions(model=tiny_model))


def test_stored_ids_stay_and_rounded_logprobs_are_replaced(import_run, jsonl, tiny_model, tmp_path) -> None:
    ids = [{"p": [3, 4], "i": [5, 6, 1], "l": [-0.5, 0.0, -0.25], "m": [1, 0, 1]}]
    source = jsonl([{"prompt": "12", "completion": "34", **row} for row in ids])
    mapping = ("response=completion", "prompt_token_ids=p", "token_ids=i", "logprobs=l", "loss_mask=m")
    imported = import_run("rows", source, mapping=mapping, temperature=1.0)
    assert imported.block()["decimals"] == 2
    (row,) = rescored(imported, tmp_path, model=tiny_model).rows("rollouts")
    assert (row["prompt_token_ids"], row["token_ids"], row["loss_mask"]) == ([3, 4], [5, 6, 1], [True, False, True])
    first, _, last = plain_logprobs(tiny_model, row)
    assert row["behavior_logprobs"] == pytest.approx([first, 0.0, last], abs=1e-5)
    block = Run(str(tmp_path / "new"), None).block()
    assert (block["ids"], block["mask"], block["logprobs"]) == ("source", "source", "recomputed")
    assert "decimals" not in block


def test_rollouts_of_our_own_become_imported_ones(tiny_model, tiny_model_updated, tmp_path) -> None:
    project = make_project(tmp_path, tiny_model)
    assert main(["generate", project.config, "--out", project.out]) == 0
    before = Run(project.out, None)
    run = rescored(before, tmp_path, model=tiny_model_updated)
    assert run.block() | {"files": []} == {
        "format": "passrl", "files": [], "ids": "source", "logprobs": "recomputed", "mask": "source",
        "temperature": "source", "unknown": [],
    }  # fmt: skip
    specs = [shards.open_dataset(one.folder("rollouts")).spec for one in (before, run)]
    assert specs[0].carried["policy_digest"] == specs[1].carried["policy_digest"]
    assert specs[1].models["scorer"].digest == model_digest(tiny_model_updated)
    for row, same in zip(run.rows("rollouts"), before.rows("rollouts"), strict=True):
        assert row.pop("behavior_logprobs") == pytest.approx(plain_logprobs(tiny_model_updated, row), abs=1e-5)
        assert row == {name: value for name, value in same.items() if name != "behavior_logprobs"}
    assert run.rows("prompts") == before.rows("prompts")


def test_a_tokenizer_alone_gives_ids_and_leaves_the_rest(import_run, jsonl, tiny_model, tmp_path) -> None:
    run = rescored(import_run("rows", jsonl(rows()), mapping=COLUMNS), tmp_path, tokenizer=tiny_model)
    assert run.block()["unknown"] == ["behavior_logprobs", "finish_reason", "seed"]
    encoded = import_run("rows", jsonl(rows()), out="encoded", mapping=COLUMNS, tokenizer=tiny_model)
    assert run.rows("rollouts") == encoded.rows("rollouts")
    shape(run)


def test_prompts_take_the_chat_template_they_are_said_to_have_had(import_run, jsonl, tiny_model, tmp_path) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS)
    run = rescored(imported, tmp_path, tokenizer=tiny_model, prompt_form=PromptForm(chat=True, system="hi"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.decode(run.rows("rollouts")[0]["prompt_token_ids"]) == "s: hi\nu: 2+3=\na: "


def test_what_cannot_be_scored_is_rejected_and_signals_stay_beside_the_rest(
    import_run, jsonl, tiny_model_factory, tmp_path
) -> None:
    short = tiny_model_factory(seed=1, max_positions=12)
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS, temperature=1.0)
    run = rescored(imported, tmp_path, model=short, max_reject_rate=0.5)
    assert [r["text"] for r in run.rows("rollouts")] == ["5", "6\n", "no"]
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], rejected["detail"]) == ("too_long", "4 + 15 tokens, the model takes 12")
    assert [s["outcome_reward"] for s in run.rows("signals", "right")] == [1.0, 0.0, 0.0]
    assert [finding for finding in verify(run.url) if finding.severity == "error"] == []
    with pytest.raises(NotFinalized, match="too_long 1"):
        rescored(imported, tmp_path, out="strict", model=short)


def test_a_completion_of_several_messages_has_no_ids(import_run, parquet, tiny_model, tmp_path) -> None:
    said = [{"role": "assistant", "content": "2"}, {"role": "tool", "content": "5"}]
    one = [{"role": "assistant", "content": "5"}]
    pairs = [([{"role": "user", "content": "2+3"}], completion, 1.0) for completion in (one, said)]
    imported = import_run("trl", parquet(completions(pairs)))
    assert [r["turns"] for r in imported.rows("rollouts")] == [1, 2]
    run = rescored(imported, tmp_path, tokenizer=tiny_model, max_reject_rate=0.5)
    assert [r["reason"] for r in run.rejected("rollouts")] == ["several_turns"]
    assert [(r["text"], "turns" in r) for r in run.rows("rollouts")] == [("5", False)]


def test_the_same_command_again_changes_nothing_and_another_model_is_refused(
    import_run, jsonl, tiny_model, tiny_model_updated, tmp_path
) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS, temperature=1.0, rollouts_per_part=2)
    run = rescored(imported, tmp_path, model=tiny_model)
    assert shards.open_dataset(run.folder("rollouts")).spec.parts == 2
    again = rescored(imported, tmp_path, model=tiny_model)
    assert again.made.manifests == run.made.manifests
    with pytest.raises(shards.dataset.FingerprintMismatchError, match=r"models\.scorer"):
        rescored(imported, tmp_path, model=tiny_model_updated)


def test_a_signal_of_the_logprobs_that_are_replaced_is_left_out_by_name(
    import_run, jsonl, tiny_model, tiny_model_updated, tmp_path
) -> None:
    source = jsonl([row | {"i": [5, 1], "p": [3], "l": [-0.5, -0.1234567]} for row in rows()])
    mapping = (*COLUMNS, "token_ids=i", "prompt_token_ids=p", "logprobs=l")
    imported = import_run("rows", source, mapping=mapping, tokenizer=tiny_model, temperature=1.0)
    teacher = {"model": tiny_model_updated, "engine": {"kind": "transformers", "device": "cpu"}}
    place = {"rollouts": imported.folder("rollouts"), "signals": {"teacher": imported.folder("signals", "teacher")}}
    for name, options in (("logprobs", teacher), ("opd", {"teacher": "teacher"})):
        out = imported.folder("signals", "teacher" if name == "logprobs" else name)
        score(signal=build_signal(name, options), out=out, **place)
    run = rescored(imported, tmp_path, model=tiny_model)
    assert run.made.left_out == ["opd"]
    assert run.rows("signals", "teacher") == imported.rows("signals", "teacher")
    assert set(run.made.manifests) == {"prompts", "rollouts", "signals/right", "signals/teacher"}


def test_what_was_cut_off_goes_on_with_the_answers_that_the_model_gave(
    import_run, jsonl, tiny_model, tmp_path, monkeypatch
) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS, temperature=1.0, rollouts_per_part=2)
    whole = rescored(imported, tmp_path, out="whole", model=tiny_model)
    asked: list[int] = []
    plain, with_logprobs = DrivenEngine.score, stage.with_logprobs

    def counted(engine: DrivenEngine, *arguments, **keywords):
        asked.append(1)
        return plain(engine, *arguments, **keywords)

    def killed(table, scored):
        if table["text"][0].as_py() == "the answer is 5":
            raise MemoryError("out of memory")
        return with_logprobs(table, scored)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "with_logprobs", killed)
        with pytest.raises(StageAborted, match="the memory is used up"):
            rescored(imported, tmp_path, out="cut", model=tiny_model)
    monkeypatch.setattr(DrivenEngine, "score", counted)
    resumed = rescored(imported, tmp_path, out="cut", model=tiny_model)
    for row, same in zip(resumed.rows("rollouts"), whole.rows("rollouts"), strict=True):  # to the bit but for batches
        assert row.pop("behavior_logprobs") == pytest.approx(same.pop("behavior_logprobs"), abs=1e-6)
        assert row == same
    assert asked == []  # the first part was committed, the second one's answers were in its journal


def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    import_run, jsonl, tiny_model, tiny_model_factory, tmp_path
) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS)
    with pytest.raises(RescoreError, match="nothing to do"):
        RescoreOptions()
    with pytest.raises(RescoreError, match="Give --temperature"):
        rescored(imported, tmp_path, model=tiny_model)
    other = tiny_model_factory(seed=3, characters="abc")
    with pytest.raises(VocabularyMismatchError, match="another vocabulary"):
        rescored(imported, tmp_path, model=other, tokenizer=tiny_model, temperature=1.0)
    encoded = import_run("rows", jsonl(rows()), out="encoded", mapping=COLUMNS, tokenizer=tiny_model)
    with pytest.raises(RescoreError, match="ids of another tokenizer"):
        rescored(encoded, tmp_path, tokenizer=other)
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_it_made(import_run, jsonl, tiny_model, tmp_path, capsys) -> None:
    imported = import_run("rows", jsonl(rows()), mapping=COLUMNS)
    command = ["rescore", imported.url, "--out", str(tmp_path / "new"), "--model", tiny_model]
    assert main(command) == 2
    assert "Give --temperature" in capsys.readouterr().err
    assert main([*command, "--temperature", "1", "--set", "kind=transformers"]) == 0
    told = capsys.readouterr().out
    assert "4 rollouts\n  token ids re-encoded, log-probabilities recomputed, mask assumed\n" in told
