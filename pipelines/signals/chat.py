"""Chat models that answer one conversation at a time: behind an OpenAI-compatible URL, or an engine in this process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

from pass_ops.errors import PassError
from pass_ops.shards import Store
from pass_ops.support.secrecy import MASK, hidden
from pipelines.engines.base import Engine, RequestRejected, SampleRequest, Sampling
from pipelines.engines.errors import ServerUnreachable
from pipelines.signals.kept import Answers, Form, then
from pipelines.signals.spelled import defused, encode, protected

Messages = Sequence[Mapping[str, str]]

# Statuses after which the same request may succeed, and those that are about this one request.
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})
LONGEST_PAUSE_S = 30.0
FIRST_CONTACT_S = 5.0  # so long a server that was never reached is tried: its URL may be wrong


class ChatUnavailable(PassError, RuntimeError):
    """The server cannot be reached, or refuses this client: no answer of any row is known. Try again later."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, and what it cost in its own tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Chat(Protocol):
    """A chat model. Thread-safe."""

    def ask(self, messages: Messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        """Its reply; a RequestRejected where this conversation alone is at fault, else ChatUnavailable."""


class EngineChat:
    """A chat model that an engine of this process runs, by its own chat template. Messages are text: the names of
    special tokens in them are spelled out.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, messages: Messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        """See `Chat.ask`."""
        tokenizer = self._engine.tokenizer
        said = [{**message, "content": protected(tokenizer, message["content"])} for message in messages]
        whole = str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        ids, _ = encode(tokenizer, whole, add_special_tokens=False)
        asked = self._engine.submit(SampleRequest(prompt_token_ids=ids, seed=seed, sampling=sampling))
        return then(asked, lambda sample: Reply(sample.text, len(ids), len(sample.token_ids)))


class HttpChat:
    """POST URL/chat/completions. retries: of a request that met a transient failure, with growing pauses. What may name
    a special token of the server's model in a message is broken by an invisible character (`defused`).
    """

    def __init__(
        self, url: str, *, model: str, api_key: str | None, concurrency: int, timeout_s: float, retries: int
    ) -> None:
        import httpx

        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        limits = httpx.Limits(max_connections=concurrency)
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, FIRST_CONTACT_S))
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)
        self._url, self._model, self._retries = url.rstrip("/") + "/chat/completions", model, retries
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="chat")
        self._api_key, self._was_reached = api_key, False

    def ask(self, messages: Messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        """See `Chat.ask`."""
        said = [{**message, "content": defused(message["content"])} for message in messages]
        body = {"model": self._model, "messages": said, "seed": seed, "max_tokens": sampling.max_tokens}
        body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        return self._threads.submit(self._post, body | ({"stop": list(sampling.stop)} if sampling.stop else {}))

    def _post(self, body: Mapping[str, Any]) -> Reply:
        import httpx

        failure, waited = "", 0.0
        for attempt in range(self._retries + 1):
            try:
                response = self._client.post(self._url, json=body)
            except httpx.HTTPError as error:
                failure, pause = f"{type(error).__name__}: {error}", 0.5 * 2**attempt
                unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self._was_reached
                if unreachable and (isinstance(error, httpx.ConnectTimeout) or waited + pause > FIRST_CONTACT_S):
                    raise ServerUnreachable(
                        f"{self._url} cannot be reached ({failure}). Start that server, or correct the URL"
                    ) from error
            else:
                self._was_reached = True
                if response.status_code == 200:
                    return _reply(response.text)
                failure = f"HTTP {response.status_code}: {self._shown(response.text)}"
                if response.status_code in _REFUSED:
                    raise RequestRejected("request_failed", failure)
                if response.status_code not in _TRANSIENT:
                    break
                pause = _retry_after(response.headers.get("Retry-After"), otherwise=0.5 * 2**attempt)
            if attempt < self._retries:
                time.sleep(min(pause, LONGEST_PAUSE_S))
                waited += pause
        raise ChatUnavailable(f"{self._url} gives no answer: {failure}. What is scored is kept; run it again later.")

    def _shown(self, text: str) -> str:
        """The start of an answer, without the secret that a server may repeat in it."""
        return hidden(text if self._api_key is None else text.replace(self._api_key, MASK))[:300]


class CachedChat:
    """Another chat model's replies, kept in a folder (any fsspec URL) under the digest of what was asked."""

    def __init__(self, chat: Chat, *, folder: str, identity: str) -> None:
        self._chat, self._store, self._identity = chat, Store(folder), identity

    def ask(self, messages: Messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        """See `Chat.ask`; what was answered before is not asked again."""
        name = _asked(self._identity, messages, seed, sampling) + ".json"
        try:
            known: Future[Reply] = Future()
            known.set_result(_read(self._store.read(name)))
            return known
        except (FileNotFoundError, ValueError, TypeError):  # one that is damaged is asked for again
            # Kept before it is known: whoever has a reply finds it in the folder.
            return then(self._chat.ask(messages, seed=seed, sampling=sampling), lambda reply: self._kept(name, reply))

    def _kept(self, name: str, reply: Reply) -> Reply:
        self._store.put(name, _written(reply))
        return reply


class KeptChat:
    """Another chat model's replies, kept until the part commits for which they were asked."""

    def __init__(self, chat: Chat, answers: Answers) -> None:
        self._chat, self._answers = chat, answers

    def ask(self, messages: Messages, *, seed: int, sampling: Sampling) -> Future[Reply]:
        """See `Chat.ask`."""
        name = _asked("", messages, seed, sampling)
        return self._answers.ask(name, lambda: self._chat.ask(messages, seed=seed, sampling=sampling), _REPLY)


def _asked(identity: str, messages: Messages, seed: int, sampling: Sampling) -> str:
    """sha256 over all that decides a reply."""
    asked = json.dumps([identity, list(messages), seed, sampling.as_values()], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _written(reply: Reply) -> bytes:
    return json.dumps(asdict(reply)).encode()


def _read(content: bytes) -> Reply:
    return Reply(**json.loads(content))


_REPLY = Form(write=_written, read=_read)


@lru_cache(maxsize=8)
def shared_http_chat(
    url: str, *, model: str, api_key: str | None, concurrency: int, timeout_s: float, retries: int
) -> HttpChat:
    """The process's client for a server: its connections are kept over parts."""
    return HttpChat(url, model=model, api_key=api_key, concurrency=concurrency, timeout_s=timeout_s, retries=retries)


def _reply(text: str) -> Reply:
    try:
        found = json.loads(text)
        usage = found.get("usage") or {}
        said = found["choices"][0]["message"]["content"] or ""
        return Reply(str(said), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ChatUnavailable(
            f"the server's answer {text[:200]!r} is no chat completion ({type(error).__name__}); is the URL one of an "
            "OpenAI-compatible API, such as http://host:8000/v1?"
        ) from error


def _retry_after(header: str | None, *, otherwise: float) -> float:
    try:
        return float(header or "")
    except ValueError:
        return otherwise
