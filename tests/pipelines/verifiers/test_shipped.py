"""The verifiers code and reasoning_gym: golden verdicts, and references that are at fault."""

from __future__ import annotations

import json

import pytest

from pipelines.verifiers import code_tests, reasoning_gym

ADD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```"
READ = "```py\na, b = map(int, input().split())\nprint(a + b)\n```"


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        (ADD, ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], True),
        (ADD, ["assert add(1, 2) == 3", "assert add(1, 1) == 3"], False),
        (READ, {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]}, True),
        (READ, {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "8"]}, False),
        (ADD, {"fn_name": "add", "inputs": [[1, 2], ["a", "b"]], "outputs": [3, "ab"]}, True),
        (ADD, {"fn_name": "add", "inputs": [[1, 2]], "outputs": [4]}, False),
        ("raise SystemExit(0)", ["assert False"], False),
        ("import os\nos._exit(0)", ["assert False"], False),
        ("while True: pass", ["assert True"], False),
        ("x = bytearray(10 << 30)", ["assert True"], False),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", ["assert True"], False),
        ("def f(:", ["assert True"], False),
    ],
)
def test_code_is_run_against_its_tests(text: str, answer: object, correct: bool) -> None:
    assert code_tests.verify(text, json.dumps(answer), test_timeout_s=2.0).correct is correct


def test_code_partial_credit_is_the_share_of_tests() -> None:
    tests = json.dumps(["assert add(1, 2) == 3", "assert False", "assert add(2, 2) == 4"])
    verdict = code_tests.verify(ADD, tests, partial=True)
    assert (verdict.correct, verdict.reward) == (False, pytest.approx(2 / 3))


def test_code_without_a_program_or_without_tests() -> None:
    assert code_tests.verify("```python\n```", "assert True").unparseable
    for answer in ("42", "[]", '{"inputs": ["1"], "outputs": []}'):
        with pytest.raises(ValueError, match="is no test"):
            code_tests.verify(ADD, answer)


@pytest.fixture(scope="module")
def entry() -> dict:
    import reasoning_gym

    return reasoning_gym.create_dataset("chain_sum", size=1, seed=3)[0]


def test_reasoning_gym_scores_by_the_entry(entry: dict) -> None:
    right = reasoning_gym.verify(f"<answer>1</answer> <answer>{entry['answer']}</answer>", json.dumps(entry))
    assert (right.correct, right.reward) == (True, 1.0)
    assert not reasoning_gym.verify("12345678", json.dumps(entry)).correct
    assert reasoning_gym.verify(entry["answer"], json.dumps(entry), task="chain_sum").correct
    assert reasoning_gym.verify("<answer> </answer>", json.dumps(entry)).unparseable


def test_reasoning_gym_answers_its_scorers_choke_on_are_unparseable() -> None:
    import reasoning_gym as library

    entry = library.create_dataset("prime_factorization", size=1, seed=1)[0]
    assert reasoning_gym.verify("two times three", json.dumps(entry)).unparseable
    assert reasoning_gym.verify(entry["answer"], json.dumps(entry)).correct


def test_reasoning_gym_tasks_that_compare_tuples_survive_json() -> None:
    import reasoning_gym as library

    entry = library.create_dataset("rearc", size=1, seed=1)[0]
    assert reasoning_gym.verify(entry["answer"], json.dumps(entry)).correct


def test_reasoning_gym_references_at_fault(entry: dict) -> None:
    with pytest.raises(ValueError, match="is not the JSON of a reasoning-gym entry"):
        reasoning_gym.verify("5", "5")
    with pytest.raises(ValueError, match="name no source_dataset"):
        reasoning_gym.verify("5", json.dumps(entry | {"metadata": {}}))
    with pytest.raises(ValueError, match="not registered"):
        reasoning_gym.verify("5", json.dumps(entry), task="no_such_task")
