"""Each format's records, from rows built field by field as the source named in its declaration writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.imports.check import checked
from pipelines.imports.formats import FORMATS, import_format
from pipelines.imports.record import Place, Record
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
