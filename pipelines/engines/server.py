"""A vLLM server that somebody else runs, by its OpenAI-compatible HTTP interface: token ids in, ids and logprobs out.

The model folder gives tokenizer and digest; where the server names a folder that this machine can read, the two digests
have to agree. Whether its logprobs are raw or processed is the server's (`vllm serve --logprobs-mode`) and is tried out
at the start. `extra`: served_model (its name there, where it serves several), api_key (env:NAME), timeout_s.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pass_ops.support.nearest import advice
from pass_ops.support.secrecy import MASK, hidden
from pipelines.engines.base import (
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    SampleRequest,
    Sampling,
    WeightsMismatchError,
)
from pipelines.engines.driver import Answer, DrivenEngine, Request, ScoreRequest
from pipelines.engines.finite import finite_or_rejected
from pipelines.engines.gpu_defaults import SEATS
from pipelines.engines.stopping import read_sample, sought_underneath
from pipelines.engines.text import Stops
from pipelines.models.folder import load_tokenizer, model_digest, read_config
from pipelines.options import secret

OPTIONS = frozenset({"served_model", "api_key", "timeout_s"})
CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.005  # how long a new request may wait while the driver waits for an older one
IMPOSSIBLE = -9999.0  # what the server writes for -inf, which JSON lacks


def start(model: str, options: EngineOptions) -> DrivenEngine:
    """Connect to the server at `options.url`. Raises EngineStartError where it runs something else, or nothing."""
    return DrivenEngine(lambda: ServerBackend(model, options), model=model, name="server")


def server_version(options: EngineOptions) -> str:
    """The version of vLLM the server runs. Raises EngineStartError where none answers."""
    with _client(options) as client:
        return str(_get(client, "/version")["version"])


class ServerBackend:
    """HTTP requests, `max_num_seqs` at a time, behind the driver's five calls; see `driver.Backend`."""

    pools = False

    def __init__(self, model: str, options: EngineOptions) -> None:
        self.tokenizer = load_tokenizer(model)
        self.vocab_size = int(read_config(model)["vocab_size"])
        self._model = model
        self._client = _client(options)
        served = _served(self._client, model, options)
        self._name = served["id"]
        limit = int(served["max_model_len"]) - 1  # the server scores a prompt only where a further token would fit
        self.max_model_len = min(options.max_model_len or limit, limit)
        self._answers: queue.SimpleQueue[tuple[int, Answer | BaseException]] = queue.SimpleQueue()
        if options.logprobs_mode != "either":
            self._check_logprobs_mode(options)
        # Daemons, not an executor's threads: those keep an ending process alive until the last answer.
        self._requests: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        self._dropped: set[int] = set()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"server-request-{i}")
            for i in range(options.max_num_seqs or SEATS)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, key: int, request: Request) -> None:
        """Send one request as soon as one of the threads is free."""
        self._requests.put((key, request))

    def step(self) -> list[tuple[int, Answer]]:
        """What was answered by now; waits a moment for the first. Raises what the connection raised."""
        ready: list[tuple[int, Answer]] = []
        try:
            key, answer = self._answers.get(timeout=POLL_SECONDS)
            while True:
                if isinstance(answer, BaseException) and not isinstance(answer, RequestRejected):
                    raise answer
                if key not in self._dropped:
                    ready.append((key, answer))
                self._dropped.discard(key)
                key, answer = self._answers.get_nowait()
        except queue.Empty:
            return ready

    def drop(self, keys: Collection[int]) -> None:
        """Send none of them that is not sent yet, and forget the answers of the others."""
        self._dropped.update(keys)

    def load_weights(self, model: str) -> None:
        """A server keeps the weights it was started with. Raises WeightsMismatchError."""
        raise WeightsMismatchError(f"{model} cannot be loaded into a running server; start one on it.")

    def sleep(self) -> None:
        """Nothing: the server holds a device of its own."""

    def wake(self, model: str) -> None:
        """Go on with the server's weights. Raises WeightsMismatchError for others."""
        if model != self._model and model_digest(model) != model_digest(self._model):
            self.load_weights(model)

    def close(self) -> None:
        """Drop what is not sent yet and the connections; the server goes on."""
        while not self._requests.empty():
            self._requests.get()
        for _ in self._threads:
            self._requests.put(None)
        self._client.close()

    def _work(self) -> None:
        while (taken := self._requests.get()) is not None:
            if taken[0] in self._dropped:
                self._dropped.discard(taken[0])
                continue
            self._answer_to(*taken)

    def _answer_to(self, key: int, request: Request) -> None:
        try:
            answer: Answer | BaseException = (
                self._score(request) if isinstance(request, ScoreRequest) else self._sample(request)
            )
        except BaseException as error:  # noqa: BLE001 - raised on the driver's thread
            answer = error
        self._answers.put((key, answer))

    def _sample(self, request: Any) -> Answer:
        room = self.max_model_len - len(request.prompt_token_ids)
        choice = self._complete(_sampling_body(request, room=room, stops=sought_underneath(self.tokenizer, request)))
        if choice["finish_reason"] not in ("stop", "length"):
            return RequestRejected("aborted", f"the server finished it as {choice['finish_reason']!r}", transient=True)
        token_ids = np.asarray(choice["token_ids"], dtype=np.int32)
        logprobs = _logprobs(choice["logprobs"]["token_logprobs"])
        sample = read_sample(self.tokenizer, request, token_ids, logprobs, finish_reason=choice["finish_reason"])
        return finite_or_rejected(sample, sample.logprobs, allow_zero_probability=False)

    def _score(self, request: ScoreRequest) -> Answer:
        token_ids = np.asarray(request.at_one().token_ids).tolist()
        body = {"prompt": token_ids, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        listed = self._complete(body)["prompt_logprobs"]
        found = [listed[i][str(token_ids[i])]["logprob"] for i in range(request.start, len(token_ids))]
        logprobs = _logprobs(found)
        return finite_or_rejected(logprobs, logprobs, allow_zero_probability=True)

    def _complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The one choice of a completion. Raises RequestRejected for what the server refuses or cannot do."""
        response = self._client.post("/v1/completions", json={"model": self._name, **body})
        if response.status_code != 200:
            sent = str(self._client.headers.get("Authorization", "")).removeprefix("Bearer ")
            said = hidden(response.text.replace(sent, MASK) if sent else response.text)[:300]
            detail = f"the server answered {response.status_code}: {said}"
            raise RequestRejected("request_failed", detail, transient=response.status_code in (429, 500, 503))
        choice: dict[str, Any] = response.json()["choices"][0]
        return choice

    def _check_logprobs_mode(self, options: EngineOptions) -> None:
        """One token drawn from a distribution cut to its likeliest: processed, its logprob is 0; raw, it is not."""
        prompt = [int(self.tokenizer.eos_token_id or 0)]
        request = SampleRequest(prompt_token_ids=prompt, seed=0, sampling=Sampling(top_k=1, max_tokens=1))
        (logprob,) = self._complete(_sampling_body(request, room=1, stops=Stops((), {})))["logprobs"]["token_logprobs"]
        found = "processed_logprobs" if logprob == 0.0 else "raw_logprobs"
        if found != options.logprobs_mode:
            raise EngineStartError(
                f"The server at {options.url} gives {found}, but this sampling needs {options.logprobs_mode}; start it "
                f"with --logprobs-mode {options.logprobs_mode}."
            )


def _sampling_body(request: SampleRequest, *, room: int, stops: Stops) -> dict[str, Any]:
    sampling = request.sampling
    body = {
        **sampling.extra,
        "prompt": [int(i) for i in request.prompt_token_ids],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": min(sampling.max_tokens, room),
        "stop": list(stops.strings),
        "skip_special_tokens": not sampling.keep_special_tokens,
        "ignore_eos": sampling.ignore_eos,
        "seed": request.seed,
        "logprobs": 0,
        "return_token_ids": True,
    }
    if stops.tokens:
        body["stop_token_ids"] = [*(body.get("stop_token_ids") or ()), *stops.tokens.values()]
    return body


def _logprobs(values: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.asarray(values, dtype=np.float32)
    return np.where(found <= IMPOSSIBLE, np.float32(-np.inf), found)


def _client(options: EngineOptions) -> Any:
    import httpx

    for name in sorted(set(options.extra) - OPTIONS):
        raise EngineOptionError(f"extra.{name} is no option of the server engine; {advice(name, sorted(OPTIONS))}")
    if not options.url:
        raise EngineOptionError("An engine of kind server needs `url`, as in http://127.0.0.1:8000.")
    headers = {}
    if (key := options.extra.get("api_key")) is not None:
        headers["Authorization"] = f"Bearer {secret(key, key='extra.api_key')}"
    seats = options.max_num_seqs or SEATS
    limits = httpx.Limits(max_connections=seats, max_keepalive_connections=seats)
    seconds = float(options.extra.get("timeout_s", 600.0))
    timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    return httpx.Client(
        base_url=options.url.rstrip("/").removesuffix("/v1"), headers=headers, limits=limits, timeout=timeout
    )


def _get(client: Any, path: str) -> Any:
    import httpx

    try:
        response = client.get(path)
        response.raise_for_status()
        return response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise EngineStartError(f"No vLLM server answers at {client.base_url}{path.lstrip('/')}: {error}.") from error


def _served(client: Any, model: str, options: EngineOptions) -> dict[str, Any]:
    """The served model that is meant, checked against the folder where the server's own folder can be read."""
    cards = {card["id"]: card for card in _get(client, "/v1/models")["data"]}
    wanted = options.extra.get("served_model", next(iter(cards)) if len(cards) == 1 else None)
    if wanted not in cards:
        raise EngineStartError(
            f"The server at {options.url} serves {', '.join(cards)}, not {wanted}; name one as extra.served_model."
        )
    card: dict[str, Any] = cards[wanted]
    root = str(card.get("root") or "")
    if Path(root).is_dir() and model_digest(root) != model_digest(model):
        raise EngineStartError(
            f"The server at {options.url} runs {root}, whose weights are not those of {model}. Start it on that "
            "folder, or give the folder it runs."
        )
    if card.get("max_model_len") is None:  # a LoRA adapter's card leaves it to its base's
        card["max_model_len"] = max(other["max_model_len"] or 0 for other in cards.values())
    return card
