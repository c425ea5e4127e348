"""What an import makes of a source: groups, parts, unknown columns, refusals, resuming."""

from __future__ import annotations

import json
import logging
import random
import shutil
from pathlib import Path

import pytest

from pass_ops import Weights, shards
from pass_ops.errors import NotFinalized, UnknownColumnError
from pass_ops.shards import Store
from pipelines.imports import run as import_module
from pipelines.imports.record import ImportFormatError, ImportSourceError
from pipelines.inspect.lint.checks import lint
from pipelines.runs.lineage import read_lineage
from pipelines.runs.verify import verify
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from pipelines.signals.base import build_signal
from pipelines.signals.stage import score

COLUMNS = ("response=completion", "reward.right=right", "answer=gold")


def row(prompt: str, completion: str, right: float | None = 1.0, **more: object) -> dict:
    return {"prompt": prompt, "completion": completion, "right": right, "gold": "5", **more}


TWO_GROUPS = [row("2+3=", "a"), row("2+3=", "b", 0.0), row("1+4=", "c", None), row("1+4=", "d", 0.5)]


def test_texts_become_prompts_rollouts_and_signals_with_unknown_columns_null(import_run, jsonl) -> None:
    run = import_run("rows", jsonl(TWO_GROUPS), mapping=COLUMNS)

    assert [(p["prompt"], p["answer"], p["source"]) for p in run.rows("prompts")] == [
        ("2+3=", "5", "rows"), ("1+4=", "5", "rows"),
    ]  # fmt: skip
    rollouts = run.rows("rollouts")
    assert [r["text"] for r in rollouts] == ["a", "b", "c", "d"]
    assert [r["sample_index"] for r in rollouts] == [0, 1, 0, 1]
    assert {name for r in rollouts for name, value in r.items() if value is None} == {
        *("prompt_token_ids", "token_ids", "behavior_logprobs", "loss_mask", "finish_reason", "seed"),
    }
    right = run.rows("signals", "right")
    assert [(s["status"], s["outcome_reward"], s["verify_status"]) for s in right] == [
        ("ok", 1.0, "unknown"), ("ok", 0.0, "unknown"), ("no_input", None, "unknown"), ("ok", 0.5, "unknown"),
    ]  # fmt: skip
    block = run.block()
    assert (block["ids"], block["logprobs"], block["mask"], block["temperature"]) == ("absent",) * 3 + ("unknown",)
    assert verify(run.url) == []


def test_the_lineage_names_what_was_made(import_run, jsonl) -> None:
    run = import_run("rows", jsonl(TWO_GROUPS), mapping=COLUMNS)
    (first,) = read_lineage(run.url)["rounds"]
    digests = {name: shards.open_dataset(run.folder(name)).content_digest for name in first["datasets"]}
    assert first["datasets"] == digests
    assert set(digests) == {"prompts", "rollouts", "signals/right"}


def test_scattered_groups_come_together_whatever_the_order_and_parts(import_run, jsonl) -> None:
    rows = [row(f"p{g}", f"p{g} s{s}", g / 8, group=g) for g in range(9) for s in range(4)]
    random.Random(3).shuffle(rows)
    run = import_run("rows", jsonl(rows), mapping=(*COLUMNS, "group=group"), rollouts_per_part=7)

    assert shards.open_dataset(run.folder("rollouts")).spec.parts > 3
    order = list(dict.fromkeys(str(r["group"]) for r in rows))
    assert [p["prompt_id"] for p in run.rows("prompts")] == order
    wanted = [r["completion"] for g in order for r in rows if str(r["group"]) == g]
    assert [r["text"] for r in run.rows("rollouts")] == wanted
    by_id = {r["rollout_id"]: r["text"] for r in run.rows("rollouts")}
    for signal in run.rows("signals", "right"):
        assert signal["outcome_reward"] == int(by_id[signal["rollout_id"]][1]) / 8
    assert verify(run.url) == []


def test_given_sample_indices_are_kept_and_a_second_of_one_is_rejected(import_run, jsonl) -> None:
    rows = [row("p", f"s{s}", group="g", s=s) for s in (3, 0, 3, 1)]
    run = import_run("rows", jsonl(rows), mapping=(*COLUMNS, "group=group", "sample_index=s"), max_reject_rate=0.5)
    assert [(r["sample_index"], r["text"]) for r in run.rows("rollouts")] == [(0, "s0"), (1, "s1"), (3, "s3")]
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], rejected["prompt_id"]) == ("duplicate_rollout", "g")
    assert rejected["detail"].startswith("rows.jsonl:3: ")


def test_a_group_of_two_prompts_keeps_the_first_and_rejects_the_other_by_name(import_run, jsonl) -> None:
    rows = [row("p", "a", group="g"), row("q", "b", group="g"), row("p", "c", group="g")]
    run = import_run("rows", jsonl(rows), mapping=(*COLUMNS, "group=group"), max_reject_rate=0.5)
    assert [r["text"] for r in run.rows("rollouts")] == ["a", "c"]
    (rejected,) = run.rejected("rollouts")
    assert rejected["reason"] == "conflicting_prompt"
    assert json.loads(rejected["payload"]) == {"where": "rows.jsonl:2"}
    assert [s["outcome_reward"] for s in run.rows("signals", "right")] == [1.0, 1.0]
    assert verify(run.url) == []


def test_bad_rows_are_rejected_with_file_and_line_and_too_many_refuse_the_import(import_run, jsonl) -> None:
    source = jsonl([*TWO_GROUPS, b"{not json", {"prompt": "x"}])
    run = import_run("rows", source, mapping=COLUMNS, max_reject_rate=0.5)
    assert [(r["reason"], r["prompt_id"], r["sample_index"]) for r in run.rejected("rollouts")] == [
        ("json", "rows.jsonl:5", 0), ("fields", "rows.jsonl:6", 0),
    ]  # fmt: skip
    with pytest.raises(NotFinalized, match="fields 1, json 1"):
        import_run("rows", source, out="strict", mapping=COLUMNS)


def test_what_needs_tokens_is_refused_by_name_and_what_reads_text_scores(import_run, jsonl, tiny_model) -> None:
    run = import_run("rows", jsonl(TWO_GROUPS), mapping=COLUMNS)
    with pytest.raises(UnknownColumnError, match="imported from rows, which leaves token_ids, loss_mask unknown; shap"):
        shape_dataset(
            rollouts=run.folder("rollouts"),
            signals=run.folder("signals"),
            out=run.folder("shaped"),
            options=ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0)),
        )
    equations = build_signal("execution", {"checker": "pipelines.verifiers.equations:check_steps"})
    with pytest.raises(UnknownColumnError, match=r"signal execution needs it\. `passrl rescore RUN"):
        score(signal=equations, rollouts=run.folder("rollouts"), prompts=run.folder("prompts"), out=run.folder("x"))
    verdicts = build_signal("outcome", {"verifier": "exact"})
    manifest = score(signal=verdicts, rollouts=run.folder("rollouts"), out=run.folder("signals", "verdicts"))
    assert manifest.totals["rows"] == 4


def test_a_tokenizer_encodes_the_texts_and_says_so_and_shape_runs(import_run, jsonl, tiny_model) -> None:
    rows = [row("2+3=", "5"), row("2+3=", "3\n4", 0.0), row("1+4=", "5"), row("1+4=", "6", 0.0)]
    run = import_run("rows", jsonl(rows), mapping=COLUMNS, tokenizer=tiny_model, temperature=1.0)
    block = run.block()
    assert (block["ids"], block["mask"], block["logprobs"]) == ("re-encoded", "assumed", "absent")
    assert block["unknown"] == ["behavior_logprobs", "finish_reason", "seed"]
    assert [len(r["token_ids"]) for r in run.rows("rollouts")] == [1, 3, 1, 1]
    manifest = shape_dataset(
        rollouts=run.folder("rollouts"),
        signals=run.folder("signals"),
        out=run.folder("shaped"),
        options=ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0)),
    )
    assert manifest.totals["rows"] == 4
    shaped = run.rows("shaped")
    assert [r["chunk_advantages"][0] > 0 for r in shaped] == [True, False, True, False]
    assert {r["policy_digest"] for r in shaped} == {"unknown"}
    assert all(r["behavior_logprobs"] is None for r in shaped)
    assert [finding for finding in verify(run.url) if finding.severity == "error"] == []


def test_completions_that_the_tokenizer_cannot_spell_are_told(import_run, jsonl, tiny_model, tmp_path, caplog) -> None:
    folder = tmp_path / "unknown"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["unk_token"] = "<pad>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    rows = [row("2+3=", "5 µ"), row("2+3=", "4", 0.0)]
    with caplog.at_level(logging.WARNING):
        import_run("rows", jsonl(rows), mapping=COLUMNS, tokenizer=str(folder))
    assert "1 of 2 completions have characters that the tokenizer" in caplog.text
    assert "(the first: µ)" in caplog.text


def test_the_same_command_again_changes_nothing_and_another_is_refused(import_run, jsonl) -> None:
    source = jsonl(TWO_GROUPS)
    before = import_run("rows", source, mapping=COLUMNS)
    again = import_run("rows", source, mapping=COLUMNS)
    assert again.made.manifests == before.made.manifests
    jsonl([*TWO_GROUPS, row("new", "e")])
    with pytest.raises(shards.dataset.FingerprintMismatchError, match="inputs"):
        import_run("rows", source, mapping=COLUMNS)


def test_an_import_that_was_cut_off_goes_on_from_its_spool(import_run, jsonl, monkeypatch) -> None:
    source = jsonl(TWO_GROUPS)
    whole = import_run("rows", source, mapping=COLUMNS)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module, "_rollouts_spec", killed)
        with pytest.raises(KeyboardInterrupt):
            import_run("rows", source, out="cut", mapping=COLUMNS)
    with monkeypatch.context() as patch:
        patch.setattr(import_module, "_read", killed)  # the spool is whole: the source is not read again
        resumed = import_run("rows", source, out="cut", mapping=COLUMNS)
    assert resumed.made.manifests == whole.made.manifests
    spool = Store(f"{resumed.folder('import')}/{Store(resumed.folder('import')).folders()[0]}")
    assert [entry.name for entry in spool.entries()] == ["facts.json"]


def test_a_torn_spool_is_made_again(import_run, jsonl, monkeypatch) -> None:
    source = jsonl(TWO_GROUPS)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module, "write_facts", killed)
        with pytest.raises(KeyboardInterrupt):
            import_run("rows", source, mapping=COLUMNS)
    assert len(import_run("rows", source, mapping=COLUMNS).rows("rollouts")) == 4


def test_steps_given_as_text_become_token_ends(import_run, jsonl, tiny_model) -> None:
    rows = [
        {"prompt": "2+3=", "steps": ["2\n", "+3\n", "=5"], "labels": [1, 0, 0.5]},
        {"prompt": "2+3=", "steps": ["5"], "labels": [None]},
    ]
    mapping = ("steps=steps", "step_scores=labels")
    with pytest.raises(ImportSourceError, match="--tokenizer"):
        import_run("rows", jsonl(rows), mapping=mapping)
    run = import_run("rows", jsonl(rows), mapping=mapping, tokenizer=tiny_model)
    first, second = run.rows("signals", "steps")
    assert (first["process_scores"], first["process_ends"]) == ([1.0, 0.0, 0.5], [2, 5, 7])
    assert (second["status"], second["detail"]) == ("no_input", "step 0 has no label")


def test_sources_that_cannot_be_imported_are_named(import_run, jsonl, tmp_path: Path) -> None:
    (tmp_path / "dump.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ImportSourceError, match="pickle"):
        import_run("rows", tmp_path / "dump.pt", mapping=COLUMNS)
    with pytest.raises(ImportSourceError, match="does not exist"):
        import_run("rows", tmp_path / "nowhere", mapping=COLUMNS)
    with pytest.raises(ImportSourceError, match="none of the 1 rows"):
        import_run("rows", jsonl([{"a": 1}]), mapping=COLUMNS)
    with pytest.raises(ImportFormatError, match="did you mean 'trl'"):
        import_run("trll", jsonl(TWO_GROUPS))
    with pytest.raises(ImportFormatError, match="did you mean 'response'"):
        import_run("rows", jsonl(TWO_GROUPS), mapping=("respons=completion",))


def test_a_mapping_in_toml_is_the_mapping_in_words(import_run, jsonl, tmp_path: Path) -> None:
    toml = tmp_path / "map.toml"
    toml.write_text('response = "completion"\nanswer = "gold"\n[reward]\nright = "right"\n')
    source = jsonl(TWO_GROUPS)
    in_words = import_run("rows", source, mapping=COLUMNS)
    in_toml = import_run("rows", source, out="toml", mapping=(str(toml),))
    digests = [run.made.manifests["prompts"].content_digest for run in (in_words, in_toml)]
    assert digests[0] == digests[1]


def test_lint_counts_the_logprobs_that_are_known_and_no_others(import_run, jsonl, tiny_model) -> None:
    """Of null ones it would make zeros, or take another row's."""
    ids = {"p": [3], "i": [5, 6]}
    known = [row("2+3=", "5", s / 2, **ids, l=[-0.5, 0.5 if s == 2 else -0.25]) for s in range(3)]
    mapping = (*COLUMNS, "prompt_token_ids=p", "token_ids=i", "logprobs=l")
    options = ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0))

    def found(rows: list[dict], out: str, mapping: tuple[str, ...] = mapping) -> set[str]:
        run = import_run("rows", jsonl(rows), out=out, mapping=mapping, tokenizer=tiny_model, max_reject_rate=0.5)
        folders = {"rollouts": run.folder("rollouts"), "signals": run.folder("signals"), "out": run.folder("shaped")}
        shape_dataset(**folders, options=options)
        return {finding.code for finding in lint(run.folder("shaped"))}

    about = {"impossible_logprobs", "logprobs_all_zero", "logprobs_not_of_sampling"}
    null = row("2+3=", "7", 1.0, **ids, l=None)
    assert not about & found([row("2+3=", "5", s / 2) for s in range(3)], "none", COLUMNS)
    assert not about & found([*known[:2], null], "some")
    assert "logprobs_all_zero" in found([*(r | {"l": [0.0, 0.0]} for r in known[:2]), null], "zeros")
