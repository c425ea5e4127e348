"""The judge against a real HTTP server on this machine with scripted answers, and through an engine."""

from __future__ import annotations

import hashlib
import json
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pyarrow as pa
import pytest

from pass_ops.shards import PROMPTS
from pipelines.engines import EngineOptions, Sampling, acquire
from pipelines.engines.errors import ServerUnreachable
from pipelines.parts.loop import abort_cause
from pipelines.signals import SignalOptionError, build_signal
from pipelines.signals.chat import FIRST_CONTACT_S, ChatUnavailable, EngineChat, HttpChat, Reply
from pipelines.signals.judge import JudgeSignal
from tests.processes import kept_port

Script = Callable[[dict], "tuple[int, dict[str, str], str]"]


def said(text: str, *, prompt: int = 10, completion: int = 3) -> tuple[int, dict[str, str], str]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


class Server:
    """Answers POST /v1/chat/completions by `script`; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.script: Script = lambda body: said("Score: 10")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                status, headers, text = outer.script(body) if self.path == "/v1/chat/completions" else (404, {}, "no")
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def judged(server: Server, tokenizer_folder: str, make_rollouts, ids) -> Callable[..., pa.Table]:
    """judged(*texts, **options): the sidecar of rollouts of one prompt, "1+1?"; "|" stands for a step's end."""

    def run(*texts: str, **options) -> pa.Table:
        rows = [
            {"text": text.replace("|", "\n\n"), "ids": ids(*("\n\n" if c == "|" else c for c in text))}
            for text in texts
        ]
        signal = build_signal("judge", {"model": "grader", "url": server.url, **options})
        signal.check(None, {})
        signal.setup(tokenizer_folder)
        prompts = pa.Table.from_pylist([{"prompt_id": "g", "prompt": "1+1?", "source": "t"}], schema=PROMPTS)
        return signal.score(make_rollouts(*rows), {"prompts": prompts})

    return run


def words(body: dict) -> str:
    return body["messages"][-1]["content"]


TEMPLATE = "{prompt}/{previous}/{step}/{number}"


def test_each_step_is_graded_with_what_stands_before_it(server: Server, judged) -> None:
    grades = {"1+1?//a/1": "3", "1+1?/a/b/2": "10"}
    server.script = lambda body: said(f"Well.\nScore: {grades[words(body)]}")
    table = judged("a|b", template=TEMPLATE, system="Be strict.", sampling={"temperature": 0.0, "max_tokens": 9})
    assert table["process_scores"].to_pylist() == [pytest.approx([0.3, 1.0])]
    assert table["process_ends"].to_pylist() == [[2, 3]]
    (first,) = [body for body in server.asked if words(body) == "1+1?//a/1"]
    assert first["messages"][0] == {"role": "system", "content": "Be strict."}
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("grader", 9, 0.0)
    assert json.loads(table["detail"][0].as_py()) == {"prompt_tokens": 20, "completion_tokens": 6}


def test_what_stands_in_a_step_is_never_taken_for_a_place_of_the_template(server: Server, judged) -> None:
    judged("a", template="{step} of {prompt}")
    assert [words(body) for body in server.asked] == ["a of 1+1?"]
    signal = build_signal("judge", {"model": "m", "url": "http://h", "template": "{step} of {prompt}"})
    assert signal.question("{step}", ["{prompt}"], 0) == "{prompt} of {step}"


def test_equal_questions_are_asked_once(server: Server, judged) -> None:
    table = judged("a|b", "a|b", "a|c")
    assert len(server.asked) == 3
    assert table["status"].to_pylist() == ["ok"] * 3


class LateChat:
    """Answers only once `wait_for` questions are open, or nobody asks any more; keeps what was open."""

    def __init__(self, wait_for: int) -> None:
        self.asked: list[str] = []
        self.most_open = 0
        self._wait_for = wait_for
        self._open: deque[tuple[str, Future[Reply]]] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._answer, daemon=True).start()

    def ask(self, messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        future: Future[Reply] = Future()
        with self._changed:
            self.asked.append(hashlib.sha256(messages[-1]["content"].encode()).hexdigest())
            self._open.append((messages[-1]["content"], future))
            self.most_open = max(self.most_open, len(self._open))
            self._changed.notify()
        return future

    def _answer(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._open) >= self._wait_for, timeout=0.5)
                _, future = self._open.popleft() if self._open else (None, Future())
            future.set_result(Reply("Score: 5", 1, 1))


def test_questions_are_made_when_they_are_asked_and_enough_of_them_are_open(judged, monkeypatch) -> None:
    """Those of one rollout are as long as its steps squared: 10 MB of 400 steps of 128 characters."""
    chat, steps = LateChat(wait_for=4), 400
    monkeypatch.setattr(JudgeSignal, "_chat", lambda _: chat)
    judged("a", concurrency=2)  # what is imported and loaded once
    chat.asked.clear()
    text = "|".join("abc"[number % 3] * 128 for number in range(steps))
    tracemalloc.start()
    try:
        table = judged(text, template="{previous}/{step}", concurrency=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table["process_scores"].to_pylist() == [[0.5] * steps]
    parts = text.split("|")
    whole = ["\n\n".join(parts[:number]) + "/" + parts[number] for number in range(steps)]
    assert chat.asked == [hashlib.sha256(question.encode()).hexdigest() for question in whole], "all, in order"
    assert chat.most_open == 4, "twice what the server answers at a time"
    assert peak < sum(map(len, whole)) / 3


def test_a_reply_without_a_grade_is_asked_for_again_with_another_seed(server: Server, judged) -> None:
    server.script = lambda body: said("Score: 7" if body["seed"] == 2 else "Score: 11 or so")
    table = judged("a")
    assert [(body["seed"], body["temperature"]) for body in server.asked] == [(0, 0.0), (1, 0.7), (2, 0.7)]
    assert table["process_scores"].to_pylist() == [pytest.approx([0.7])]
    assert json.loads(table["detail"][0].as_py()) == {"prompt_tokens": 30, "completion_tokens": 9}


@pytest.mark.parametrize("text", ["", "ten", "Score: 11", "Score: -1", "Score: 7.5", "Score: 7 or 8", "score 7"])
def test_parsing_is_strict(server: Server, judged, text: str) -> None:
    server.script = lambda body: said(text)
    table = judged("a", attempts=1)
    assert table["status"].to_pylist() == ["error"]
    failure = json.loads(table["detail"][0].as_py())
    assert (failure["step"], failure["failure"]) == (0, f"no grade in {text!r}")


def test_only_the_step_that_cannot_be_read_is_asked_again_and_costs_its_rollout(server: Server, judged) -> None:
    server.script = lambda body: said("?" if "The step:\nb" in words(body) else "Score: 5")
    table = judged("a|b", "a", attempts=2)
    assert table["status"].to_pylist() == ["error", "ok"]
    assert len(server.asked) == 3


def test_a_busy_server_is_asked_again(server: Server, judged) -> None:
    answers = iter([(429, {"Retry-After": "0"}, "slow down"), (503, {"Retry-After": "0"}, ""), said("Score: 4")])
    server.script = lambda body: next(answers)
    assert judged("a")["process_scores"].to_pylist() == [pytest.approx([0.4])]


@pytest.mark.parametrize(("status", "requests"), [(401, 1), (404, 1), (500, 3)])
def test_a_server_that_gives_no_answer_stops_the_stage_instead_of_nulling_rows(
    server: Server, judged, status: int, requests: int
) -> None:
    server.script = lambda body: (status, {"Retry-After": "0"}, "no")
    with pytest.raises(ChatUnavailable, match=f"HTTP {status}: no"):
        judged("a", retries=2)
    assert len(server.asked) == requests


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    passing = Clock()
    monkeypatch.setattr("pipelines.signals.chat.time", passing)
    return passing


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
def test_a_server_that_was_never_reached_is_named_within_seconds(judged, clock: Clock, url: str) -> None:
    with pytest.raises(ServerUnreachable, match=f"{url}/chat/completions cannot be reached"):
        judged("a", url=url, retries=20)
    assert clock.slept <= FIRST_CONTACT_S


def test_one_that_went_away_is_waited_for_as_long_as_asked(clock: Clock) -> None:
    server = Server()
    chat = HttpChat(server.url, model="m", api_key=None, concurrency=1, timeout_s=60, retries=6)
    message = [{"role": "user", "content": "hi"}]
    assert chat.ask(message, seed=0, sampling=Sampling()).result().text == "Score: 10"
    server.close()
    chat._client.close()  # its connection would still be served
    chat._client = httpx.Client()
    with kept_port(httpx.URL(server.url).port), pytest.raises(ChatUnavailable, match="ConnectError"):
        chat.ask(message, seed=0, sampling=Sampling()).result()
    assert clock.slept == 0.5 + 1 + 2 + 4 + 8 + 16


def test_an_unreachable_server_stops_the_whole_job() -> None:
    in_a_part = RuntimeError("in a part")
    in_a_part.__cause__ = ServerUnreachable("nobody is there")
    assert abort_cause(in_a_part) == "nobody is there"


def test_a_key_that_the_server_repeats_is_not_repeated(server: Server, judged, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE", "hunter2-hunter2")
    server.script = lambda body: (401, {}, "Incorrect key: hunter2-hunter2")
    with pytest.raises(ChatUnavailable, match=r"HTTP 401: Incorrect key: \*\*\*") as raised:
        judged("a", api_key="env:JUDGE")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"text": 1}'])
def test_a_damaged_reply_in_the_cache_is_asked_for_again(server: Server, judged, tmp_path, damage: bytes) -> None:
    first = judged("a", cache=str(tmp_path))
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(damage)
    assert judged("a", cache=str(tmp_path)).equals(first)
    assert len(server.asked) == 2


def test_an_answer_that_is_no_completion_names_the_url(server: Server, judged) -> None:
    server.script = lambda body: (200, {}, "<html>")
    with pytest.raises(ChatUnavailable, match="is no chat completion"):
        judged("a")


def test_a_request_the_server_refuses_costs_its_row(server: Server, judged) -> None:
    server.script = lambda body: (400, {}, "context length") if "b" in words(body)[-3:] else said("Score: 1")
    table = judged("a", "b", template="{step}")
    assert table["status"].to_pylist() == ["ok", "error"]
    assert "HTTP 400: context length" in table["detail"][1].as_py()


def test_the_cache_answers_what_was_asked_before_also_in_another_process(server: Server, judged, tmp_path) -> None:
    cache = str(tmp_path / "cache")
    first = judged("a|b", cache=cache)
    assert len(server.asked) == 2
    assert judged("a|b", cache=cache).equals(first)
    assert len(server.asked) == 2
    judged("a|c", cache=cache)
    assert len(server.asked) == 3
    judged("a|b", cache=cache, sampling={"temperature": 0.0, "max_tokens": 7})
    assert len(server.asked) == 5, "another sampling is another question"
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_the_secret_comes_from_the_environment_and_is_stored_nowhere(server: Server, judged, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hunter2")
    judged("a", api_key="env:JUDGE_KEY")
    assert server.keys == ["Bearer hunter2"]
    signal = build_signal("judge", {"model": "m", "url": server.url, "api_key": "env:JUDGE_KEY"})
    assert "api_key" not in signal.options()
    assert "hunter2" not in repr(signal)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="JUDGE_KEY is not set"):
        signal.check(None, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "hunter2"}, "env:NAME only"),
        ({"url": "http://me:secret@host/v1"}, "holds a user or password"),
        ({"template": "{prompt}"}, "has no {step}"),
        ({"answer": "Score"}, "needs a group"),
        ({"answer": "(Score"}, "is no regular expression"),
        ({"scale": [1, 1]}, "lowest, highest"),
        ({"attempts": 0}, "attempts is 0: it must be greater"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(SignalOptionError, match=message):
        build_signal("judge", {"model": "m", **options})


ENGINES = {
    "recorded": {"kind": "recorded", "recording": "synthetic:3"},
    "vllm": {"kind": "vllm", "dtype": "float32", "kv_cache_gib": 0.25, "max_num_seqs": 16},
}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_chat_model_of_ones_own_answers_through_the_engine(
    kind: str, tiny_model: str, tokenizer_folder: str, make_rollouts, ids
) -> None:
    """Replies are what the engine samples for the chat template's ids; a random model's are mostly unreadable."""
    options = {"model": tiny_model, "engine": ENGINES[kind], "answer": r"(\d)", "scale": [0, 9], "attempts": 4}
    signal = build_signal("judge", {**options, "template": "{step}", "sampling": {"max_tokens": 30}})
    signal.check(None, {})
    signal.setup(tokenizer_folder)
    prompts = pa.Table.from_pylist([{"prompt_id": "g", "prompt": "1+1?", "source": "t"}], schema=PROMPTS)
    table = signal.score(make_rollouts({"text": "a", "ids": ids("a")}), {"prompts": prompts})
    chat = EngineChat(acquire(tiny_model, EngineOptions(**ENGINES[kind])))
    replies = [
        chat.ask([{"role": "user", "content": "a"}], seed=seed, sampling=Sampling(max_tokens=30)).result(timeout=120)
        for seed in range(4)
    ]
    grades = [signal.grade(reply.text) for reply in replies]
    first = next(index for index, grade in enumerate(grades) if grade is not None)
    assert table["process_scores"].to_pylist() == [pytest.approx([grades[first]])]
    assert json.loads(table["detail"][0].as_py()) == {
        "prompt_tokens": (first + 1) * len("u: a\na: "),
        "completion_tokens": sum(reply.completion_tokens for reply in replies[: first + 1]),
    }
    assert signal.models().keys() == {"judge"}
    assert "model" not in signal.options()
