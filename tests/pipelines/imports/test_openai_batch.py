"""OpenAI's batch files: requests and results joined by custom_id, as the API and vLLM's run-batch write them."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.runs.verify import verify


def request(custom_id: str, question: str, **body: Any) -> dict:
    own = {"model": "m", "messages": [{"role": "user", "content": question}], "temperature": 1.0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": own}


def choice(index: int, text: str, **more: Any) -> dict:
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | more


def result(custom_id: str, *choices: dict, status: int = 200, **body: Any) -> dict:
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m-2026", "choices": list(choices), **body}
    response = {"status_code": status, "request_id": "r", "body": answer}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}


def test_results_in_any_order_get_their_requests_and_equal_prompts_are_a_group(import_run, jsonl, tmp_path) -> None:
    jsonl([request("a", "2+3"), request("b", "1+1"), request("a2", "2+3")], "batch/input.jsonl")
    jsonl([result("a2", choice(0, "five")), result("b", choice(0, "2"))], "batch/output.jsonl")
    jsonl([result("a", choice(0, "5"), choice(1, "6", finish_reason="length"))], "batch/more.jsonl")
    run = import_run("openai_batch", tmp_path / "batch")
    rows = run.rows("rollouts")
    assert [(row["text"], row["rollout_id"][-1]) for row in rows] == [("5", "0"), ("6", "1"), ("five", "2"), ("2", "0")]
    assert [row["finish_reason"] for row in rows] == ["stop", "length", "stop", "stop"]
    assert [prompt["messages"][0]["content"] for prompt in run.rows("prompts")] == ["2+3", "1+1"]
    assert {file["name"] for file in run.block()["files"]} == {"input.jsonl", "more.jsonl", "output.jsonl"}
    assert (run.block()["ids"], run.block()["temperature"]) == ("absent", "source")
    assert verify(run.url) == []


def test_ids_of_vllm_are_taken_from_their_field_or_from_the_names_of_tokens(
    import_run, jsonl, tmp_path, tiny_model
) -> None:
    named = [{"token": f"token_id:{token}", "logprob": value} for token, value in ((5, -0.53), (6, -0.257))]
    jsonl([request("a", "2+3"), request("b", "2+3")], "batch/input.jsonl")
    answers = [
        result("a", choice(0, "56", token_ids=[5, 6], logprobs={"content": named}), prompt_token_ids=[1, 2]),
        result("b", choice(0, "56", logprobs={"content": named}), prompt_token_ids=[1, 2]),
    ]
    jsonl(answers, "batch/output.jsonl")
    first, second = import_run("openai_batch", tmp_path / "batch").rows("rollouts")
    assert first["prompt_token_ids"] == second["prompt_token_ids"] == [1, 2]
    assert first["token_ids"] == second["token_ids"] == [5, 6]
    assert first["behavior_logprobs"] == second["behavior_logprobs"] == pytest.approx([-0.53, -0.257])


@pytest.mark.parametrize("temperature", [0.7, None])
def test_log_probabilities_of_another_or_no_temperature_are_left(import_run, jsonl, tmp_path, temperature) -> None:
    said = {"tokens": ["a"], "token_logprobs": [-0.5]}
    asked = {"model": "m", "prompt": "2+3=", **({} if temperature is None else {"temperature": temperature})}
    jsonl([{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": asked}], "batch/input.jsonl")
    own = {
        "index": 0,
        "text": "5",
        "finish_reason": "stop",
        "token_ids": [5],
        "prompt_token_ids": [1],
        "logprobs": said,
    }
    jsonl([result("a", own)], "batch/output.jsonl")
    run = import_run("openai_batch", tmp_path / "batch")
    (row,) = run.rows("rollouts")
    assert (row["token_ids"], row["behavior_logprobs"]) == ([5], None)
    assert run.block()["logprobs"] == "absent"


BAD: dict[str, tuple[dict, str, str]] = {
    "no request": (result("z", choice(0, "5")), "request", "no request has the custom_id 'z'"),
    "requests that differ": (result("twice", choice(0, "5")), "request", "requests that differ"),
    "an error": ({"custom_id": "a", "response": None, "error": {"code": "x"}}, "request_failed", "request failed"),
    "a status": (result("a", status=500), "request_failed", "status 500"),
    "no choice": (result("a"), "fields", "answered nothing"),
    "a choice that is a text": (result("a", "5"), "fields", "choices[0] is '5', not an object"),
    "a list of prompts": (result("list", {"index": 0, "text": "5"}), "fields", "which choice answers which prompt"),
    "ids of another length": (
        result("a", choice(0, "5", token_ids=[5, 6], logprobs={"content": [{"token": "a", "logprob": -1.0}]})),
        "lengths",
        "2 tokens and 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_result_is_rejected_with_file_and_line(import_run, jsonl, tmp_path, name: str) -> None:
    bad, reason, detail = BAD[name]
    asked = [request("a", "2+3"), request("good", "1+1"), request("twice", "p"), request("twice", "q")]
    asked += [{"custom_id": "list", "method": "POST", "url": "/v1/completions", "body": {"prompt": ["p", "q"]}}]
    jsonl(asked, "batch/input.jsonl")
    jsonl([result("good", choice(0, "2")), bad], "batch/output.jsonl")
    run = import_run("openai_batch", tmp_path / "batch", max_reject_rate=0.9)
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], len(run.rows("rollouts"))) == (reason, 1)
    assert rejected["detail"].startswith("output.jsonl:2: ")
    assert detail in rejected["detail"]


def test_a_second_result_of_one_request_is_rejected(import_run, jsonl, tmp_path) -> None:
    jsonl([request("a", "2+3")], "batch/input.jsonl")
    jsonl([result("a", choice(0, "5")), result("a", choice(0, "6"))], "batch/output.jsonl")
    run = import_run("openai_batch", tmp_path / "batch", max_reject_rate=0.9)
    assert [row["text"] for row in run.rows("rollouts")] == ["5"]
    (rejected,) = run.rejected("rollouts")
    assert (rejected["reason"], "at output.jsonl:1" in rejected["detail"]) == ("duplicate_rollout", True)
