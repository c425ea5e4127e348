"""Each format's records, from rows built field by field as the source named in its declaration writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.imports.check import checked
from pipelines.imports.formats import FORMATS, import_format
from pipelines.imports.record import Place, Record
from pipelines.rows.record import RowFileError
from pipelines.runs.verify import verify

PLACE = Place(file="7.jsonl", number=1, where="7.jsonl:1")


def records(name: str, row: dict[str, Any], place: Place = PLACE) -> list[Record]:
    form = import_format(name)
    return [checked(record, form) for record in form.read(row, place)]


def node(parent: int | None, role: str, content: str, *, ids: list[int], logprobs: list[float] | None = None) -> dict:
    """A message node; those with log-probabilities were sampled, after a scaffold of one token."""
    sampled = logprobs is not None
    mask = [False, *[True] * (len(ids) - 1)] if sampled else [False] * len(ids)
    return {
        "parent": parent, "message": {"role": role, "content": content}, "sampled": sampled, "token_ids": ids,
        "mask": mask, "logprobs": logprobs or [], "finish_reason": "stop" if sampled else None,
    }  # fmt: skip


def trace(**more: Any) -> dict:
    nodes = [
        node(None, "user", "2+3", ids=[1, 2]),
        node(0, "assistant", "5", ids=[9, 5, 6], logprobs=[-0.5, -0.25]),
        node(1, "user", "sure?", ids=[3]),
        node(2, "assistant", "yes", ids=[9, 7], logprobs=[-0.125]),
        node(0, "assistant", "six", ids=[9, 8], logprobs=[-1.0]),
    ]
    own = {
        "version": 1, "task": {"type": "T", "data": {"idx": 4}, "key": "k"}, "nodes": nodes, "info": {},
        "rewards": {"right": {"score": 1.0, "weight": 2.0}, "short": {"score": 0.5, "weight": 1.0}},
        "calls": [{"node": at, "model": "m", "sampling": {"temperature": 0.7}} for at in (1, 3, 4)],
    }  # fmt: skip
    return own | more


class TestVerifiers:
    def test_each_path_to_a_leaf_is_a_rollout_with_masked_scaffold(self) -> None:
        first, second = records("verifiers", {"id": "e", "group": {"id": "g"}, "traces": [trace()]})
        assert first.messages == [{"role": "user", "content": "2+3"}]
        assert (first.text, first.turns, first.group) == ("5\n\nsure?\n\nyes", 2, "g")
        assert list(first.prompt_token_ids) == [1, 2, 9]
        assert list(first.token_ids) == [5, 6, 3, 9, 7]
        assert list(first.loss_mask) == [True, True, False, False, True]
        assert list(first.logprobs) == [-0.5, -0.25, 0, 0, -0.125]
        assert (second.text, list(second.token_ids), second.temperature, second.model) == ("six", [8], 0.7, "m")

    def test_the_reward_is_the_weighted_sum_and_unscored_ones_are_null(self) -> None:
        assert records("verifiers", trace())[0].rewards == {"reward": 2.5, "right": 1.0, "short": 0.5}
        assert records("verifiers", trace(rewards={"a": None}))[0].rewards == {"reward": None}
        assert records("verifiers", trace(rewards={"a": None, "b": {"score": 1.0}}))[0].rewards["reward"] is None

    def test_a_trace_alone_is_grouped_by_its_task(self) -> None:
        assert {record.group for record in records("verifiers", trace())} == {"k"}

    @pytest.mark.parametrize(("decimals", "found"), [(4, "rounded"), (None, "exact")])
    def test_rounding_to_four_decimals_is_found_out(self, import_run, jsonl, decimals, found) -> None:
        rng = np.random.default_rng(0)
        rows = []
        for group in ("a", "b"):
            values = (-rng.exponential(size=40)).tolist()
            given = values if decimals is None else [round(value, decimals) for value in values]
            nodes = [
                node(None, "user", group, ids=[1]),
                node(0, "assistant", "x", ids=[9, *range(40)], logprobs=given),
            ]
            one = trace(nodes=nodes, calls=[{"node": 1, "sampling": {"temperature": 1.0}}])
            rows += [{"id": "e", "group": {"id": group}, "traces": [one, one]}]
        run = import_run("verifiers", jsonl(rows, "traces.jsonl"))
        block = run.block()
        assert (block["logprobs"], block.get("decimals")) == (found, decimals)
        assert (block["ids"], block["mask"], block["temperature"]) == ("source", "source", "source")
        assert block["unknown"] == ["seed"]
        assert len(run.rows("rollouts")) == 4
        assert verify(run.url) == []


def nemo(**more: Any) -> dict:
    own = {
        "content": ["<user>2+3<assistant>5"], "rewards": [1.0], "input_lengths": [5], "token_ids": [[1, 2, 9, 5, 6, 0]],
        "token_loss_mask": [[0.0, 0.0, 0.0, 1.0, 1.0, 0.0]], "sample_loss_mask": [1.0], "advantages": [[0.0] * 6],
        "generation_logprobs": [[0.0, 0.0, 0.0, -0.5, -0.25, 0.0]], "prev_logprobs": [[0.0] * 6], "idx": 0,
    }  # fmt: skip
    return own | more


def test_nemo_rl_splits_prompt_and_completion_where_the_mask_begins_and_drops_padding() -> None:
    (record,) = records("nemo_rl", nemo(), Place(file="train_data_step3.jsonl", number=1, where="here"))
    assert list(record.prompt_token_ids) == [1, 2, 9]
    assert list(record.token_ids) == [5, 6]
    assert list(record.logprobs) == [-0.5, -0.25]
    assert (record.rewards, record.group) == ({"reward": 1.0}, "train_data_step3")


def test_nemo_rl_needs_a_tokenizer_for_texts_and_groups_equal_prompts(import_run, jsonl, tiny_model) -> None:
    rows = [nemo(), nemo(token_ids=[[4, 2, 9, 5, 6, 0]]), nemo(rewards=[0.0])]
    source = jsonl(rows, "train_data_step3.jsonl")
    with pytest.raises(ValueError, match="--tokenizer"):
        import_run("nemo_rl", source)
    run = import_run("nemo_rl", source, out="decoded", tokenizer=tiny_model)
    assert [r["rollout_id"].rsplit("/")[-1] for r in run.rows("rollouts")] == ["0", "1", "0"]
    assert run.block()["ids"] == "source"
    assert len(run.rows("rollouts")[0]["text"]) == 2
    assert [s["outcome_reward"] for s in run.rows("signals", "reward")] == [1.0, 0.0, 1.0]


def test_open_instruct_counts_every_token_and_keeps_what_it_says() -> None:
    row = {
        "step": 3, "sample_idx": 1, "prompt_idx": 0, "prompt_tokens": [1, 2], "response_tokens": [5, 6], "reward": 10.0,
        "advantage": 0.3, "finish_reason": "length", "dataset": "math", "ground_truth": ["5"], "logprobs": [-1.0, -2.0],
    }  # fmt: skip
    (record,) = records("open_instruct", row)
    assert (record.group, record.answer, record.source, record.finish_reason) == ("3-0", '["5"]', "math", "length")
    assert list(record.loss_mask) == [True, True]
    del row["logprobs"]
    assert records("open_instruct", row)[0].logprobs is None


def test_verl_groups_by_uid_where_there_is_one_and_by_input_where_not(import_run, jsonl, tmp_path: Path) -> None:
    def row(question: str, answer: str, **more: Any) -> dict:
        return {"input": question, "output": answer, "gts": "5", "score": 1.0, "step": 7, **more}

    old = [row("p", "a", acc=True), row("q", "b"), row("p", "c", acc=False, pred="5")]
    run = import_run("verl", jsonl(old, "old/7.jsonl"), out="old-run")
    assert [r["text"] for r in run.rows("rollouts")] == ["a", "c", "b"]
    assert [s["outcome_reward"] for s in run.rows("signals", "acc")] == [1.0, 0.0, None]
    assert set(run.made.facts.rewards) == {"score", "acc"}

    new = [row("p", text, uid=f"{uid}_{at}_0") for uid in ("u_1", "u_2") for at, text in enumerate("ab")]
    run = import_run("verl", jsonl(new, "new/7.jsonl"), out="new-run")
    assert [p["prompt_id"].rsplit("-", 1)[0] for p in run.rows("prompts")] == ["u_1", "u_2"]


def test_every_format_declares_where_it_is_described_and_the_page_lists_it() -> None:
    page = (Path(__file__).parents[3] / "docs/how-to/import.md").read_text()
    for name, form in FORMATS.items():
        assert form.source, name
        assert f"`{name}`" in page, f"docs/how-to/import.md lists no format {name}"


def sample(**more: Any) -> dict:
    own = {
        "group_index": 3, "index": 7, "prompt": "2+3=", "tokens": [1, 2, 5, 6], "response": "56", "response_length": 2,
        "label": "5", "reward": {"right": 1.0, "why": "x"}, "loss_mask": [1, 0], "rollout_log_probs": [-0.5, 0.0],
        "status": "truncated",
    }  # fmt: skip
    return own | more


def test_slime_takes_the_last_tokens_and_loads_nothing_that_could_run(import_run, tmp_path: Path) -> None:
    import torch

    dump = {"rollout_id": 4, "samples": [sample(), sample(tokens=torch.tensor([1, 2, 5, 5]), loss_mask=None)]}
    torch.save(dump, tmp_path / "rollout_4.pt")
    run = import_run("slime", tmp_path / "rollout_4.pt")
    first, second = run.rows("rollouts")
    assert (first["prompt_token_ids"], first["token_ids"], first["loss_mask"]) == ([1, 2], [5, 6], [True, False])
    assert (first["finish_reason"], first["group_id"], second["loss_mask"]) == ("length", "rollout_4-3", [True, True])
    assert [s["outcome_reward"] for s in run.rows("signals", "right")] == [1.0, 1.0]

    torch.save({"samples": [sample(prompt=Path("x"))]}, tmp_path / "evil.pt")
    with pytest.raises(RowFileError, match="more than tensors, arrays and plain values"):
        import_run("slime", tmp_path / "evil.pt", out="evil")
    (tmp_path / "text.pt").write_text("no dump")
    with pytest.raises(RowFileError, match="was not loaded"):
        import_run("slime", tmp_path / "text.pt", out="text")


def eval_sample(epoch: int, grade: object, **more: Any) -> dict:
    messages = [{"role": "user", "content": "2+3"}, {"role": "assistant", "content": f"epoch {epoch}"}]
    choice = {"message": messages[1], "stop_reason": "max_tokens"}
    own = {
        "id": "s/1", "epoch": epoch, "input": "2+3", "target": ["5"], "messages": messages,
        "output": {"model": "m", "choices": [choice]}, "scores": {"match": {"value": grade}}, "metadata": {},
    }  # fmt: skip
    return own | more


def zstd_zip(path: Path, files: dict[str, bytes]) -> Path:
    """An archive as inspect_ai writes it: entries of method 93, made without zipfile's help."""
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, pa.compress(content, codec="zstd", asbytes=True))
    data = bytearray(path.read_bytes())
    for signature, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        at = -1
        for content in files.values():
            at = data.index(signature, at + 1)
            data[at + method : at + method + 2] = (93).to_bytes(2, "little")
            data[at + size : at + size + 4] = len(content).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    return path


def test_inspect_ai_reads_zstd_archives_epochs_as_groups_and_letters_as_grades(import_run, tmp_path: Path) -> None:
    samples = {f"samples/s_epoch_{at}.json": eval_sample(at, grade) for at, grade in ((1, "C"), (2, "I"), (3, 0.25))}
    files = {"header.json": b"{}", **{name: json.dumps(one).encode() for name, one in samples.items()}}
    run = import_run("inspect_ai", zstd_zip(tmp_path / "log.eval", files))
    assert [r["rollout_id"] for r in run.rows("rollouts")] == ["s%2F1/0", "s%2F1/1", "s%2F1/2"]
    assert [s["outcome_reward"] for s in run.rows("signals", "match")] == [1.0, 0.0, 0.25]
    assert {(r["finish_reason"], r["answer"]) for r in run.rows("rollouts")} == {("length", '["5"]')}

    torn = bytearray((tmp_path / "log.eval").read_bytes())
    at = torn.index(b"\x28\xb5\x2f\xfd", torn.index(b"s_epoch_2"))
    torn[at : at + 8] = bytes(8)
    (tmp_path / "torn.eval").write_bytes(bytes(torn))
    run = import_run("inspect_ai", tmp_path / "torn.eval", out="torn", max_reject_rate=0.5)
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], rejected["prompt_id"]) == ("zip", "torn.eval:samples%2Fs_epoch_2.json")

    (tmp_path / "none.eval").write_text("{}")
    with pytest.raises(RowFileError, match="no zip archive"):
        import_run("inspect_ai", tmp_path / "none.eval", out="none")


def test_lm_eval_repeats_are_a_group_and_metrics_of_one_answer_are_rewards() -> None:
    row = {
        "doc_id": 3, "target": "5", "arguments": {"gen_args_0": {"arg_0": "2+3=", "arg_1": {"temperature": 0.5}}},
        "resps": [["a", "b"]], "filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0,
    }  # fmt: skip
    place = Place(file="x/samples_gsm8k_2026-11-01T00-00-00.1.jsonl", number=1, where="here")
    first, second = records("lm_eval", row, place)
    assert (first.group, first.sample_index, second.sample_index) == ("gsm8k-3-strict", 0, 1)
    assert (first.temperature, first.rewards, first.source) == (0.5, {}, "gsm8k")
    (one,) = records("lm_eval", row | {"resps": [["a"]], "arguments": [["2+3=", {}]]}, place)
    assert (one.rewards, one.prompt, one.temperature) == ({"exact_match": 1.0}, "2+3=", None)


def test_lighteval_answers_of_a_row_are_a_group_with_its_ids() -> None:
    row = {
        "doc": {"query": "2+3", "choices": ["4", "5"], "gold_index": [1]}, "metric": {"acc": 1.0},
        "model_response": {"input": None, "input_tokens": [[1, 2]], "text": ["5", "6"], "output_tokens": [[5], [6]]},
    }  # fmt: skip
    first, second = records("lighteval", row)
    assert (first.prompt, first.answer, first.text, list(first.prompt_token_ids)) == ("2+3", "5", "5", [1, 2])
    assert (list(second.token_ids), list(second.loss_mask), second.rewards) == ([6], [True], {})


def test_nemo_gym_masks_what_tools_said_between_sampled_items() -> None:
    items = [
        {"type": "message", "content": [{"type": "output_text", "text": "call"}], "prompt_token_ids": [1, 2],
         "generation_token_ids": [5], "generation_log_probs": [-0.5]},
        {"type": "function_call_output", "output": "7"},
        {"type": "message", "content": [{"type": "output_text", "text": "done"}], "prompt_token_ids": [1, 2, 5, 8],
         "generation_token_ids": [6], "generation_log_probs": [-0.25]},
    ]  # fmt: skip
    row = {
        "responses_create_params": {"input": "2+3", "temperature": 1.0}, "response": {"output": items, "model": "m"},
        "reward": 1.0, "reward_components": {"right": 0.5}, "_ng_task_index": 4, "_ng_rollout_index": 2,
    }  # fmt: skip
    (record,) = records("nemo_gym", row)
    assert (list(record.token_ids), list(record.loss_mask)) == ([5, 8, 6], [True, False, True])
    assert list(record.logprobs) == [-0.5, 0.0, -0.25]
    assert (record.text, record.group, record.sample_index) == ("call\n\n7\n\ndone", "4", 2)
    assert record.rewards == {"reward": 1.0, "right": 0.5}


def test_step_labels_become_a_process_signal_on_the_policys_tokens(import_run, jsonl, tiny_model) -> None:
    rows = [
        {"id": "a", "problem": "2+3=", "steps": ["2+3", "=5"], "label": -1, "final_answer_correct": True},
        {"id": "b", "problem": "2+3=", "steps": ["2", "=4"], "label": 0, "final_answer_correct": False},
    ]
    run = import_run("processbench", jsonl(rows), tokenizer=tiny_model)
    first, second = run.rows("signals", "steps")
    ends = [len("2+3") + len("\n\n"), len("2+3") + len("\n\n") + len("=5")]
    assert (first["process_scores"], first["process_ends"]) == ([1.0, 1.0], ends)
    assert (second["status"], second["detail"]) == ("no_input", "step 1 has no label")
    assert [s["outcome_reward"] for s in run.rows("signals", "answer_correct")] == [1.0, 0.0]
