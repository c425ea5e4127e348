"""Prompts of the Hugging Face hub, from a server on this machine that answers as the hub's interface does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from pass_ops import shards
from pipelines.prompts.hub import HubError, at_commit
from pipelines.prompts.stage import PromptSource, write_prompts

OLD, NEW = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """A dataset of two commits, of which main names the newer one."""

    files = {  # noqa: RUF012 - a literal of the test
        OLD: {"main/train.jsonl": b'{"question": "1+1", "answer": "2"}\n'},
        NEW: {
            "README.md": b"# d",
            "main/train.jsonl": b'{"question": "2+3", "answer": "5"}\n{"question": "2+4", "answer": "6"}\n',
        },
    }

    def commit(self, revision: str) -> str | None:
        return {"main": NEW, "v1": OLD, OLD: OLD, NEW: NEW}.get(unquote(revision))


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        *_, revision = urlsplit(self.path).path.split("/")
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        files = self.server.files[self.server.commit(revision)]
        there = [path for path in asked if path in files or _inside(files, path)]
        self._send(json.dumps([_entry(files, path) for path in there]))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/datasets/o/d/revision/") or path == "/api/datasets/o/d":
            commit = self.server.commit(path.rsplit("/", 1)[-1] if "revision" in path else "main")
            if commit is None:
                self._send("{}", status=404, headers={"X-Error-Code": "RevisionNotFound"})
            else:
                self._send(json.dumps({"_id": "1", "id": "o/d", "sha": commit, "private": False}))
        elif path.startswith("/api/datasets/o/d/tree/"):
            revision, _, folder = path.removeprefix("/api/datasets/o/d/tree/").partition("/")
            files = self.server.files[self.server.commit(revision)]
            self._send(json.dumps([_entry(files, path) for path in _inside(files, folder)]))
        elif path.startswith("/datasets/o/d/resolve/"):
            revision, _, file = path.removeprefix("/datasets/o/d/resolve/").partition("/")
            commit = self.server.commit(revision)
            content = self.server.files[commit][file]
            self._send(content, headers={"X-Repo-Commit": commit, "ETag": '"e"', "X-Linked-Size": str(len(content))})
        else:
            self._send("{}", status=404, headers={"X-Error-Code": "RepoNotFound"})

    def _send(self, content: str | bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(files: dict[str, bytes], path: str) -> dict:
    """A file or folder as the hub describes it."""
    if path in files:
        return {"type": "file", "oid": "1", "size": len(files[path]), "path": path}
    return {"type": "directory", "oid": "0", "size": 0, "path": path}


def _inside(files: dict[str, bytes], folder: str) -> list[str]:
    """What lies directly in a folder."""
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    return sorted({prefix + name.partition("/")[0] for name in below})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    yield server
    server.shutdown()
    server.server_close()


def source(url: str) -> PromptSource:
    return PromptSource(source=url, columns={"prompt": "question"})


@pytest.mark.parametrize("url", ["hf://datasets/o/d/main/train.jsonl", "hf://datasets/o/d@main/main"])
def test_prompts_come_from_the_commit_of_the_branch_which_is_recorded(hub: Hub, tmp_path, url: str) -> None:
    write_prompts(source(url), out=str(tmp_path / "prompts"))
    dataset = shards.open_dataset(str(tmp_path / "prompts"))
    assert [row["prompt"] for row in dataset.read_part(0).to_pylist()] == ["2+3", "2+4"]
    (ref,) = dataset.spec.inputs.values()
    assert ref.folder == f"hf://datasets/o/d@{NEW}/main/train.jsonl"


def test_a_revision_that_is_given_is_the_one_that_is_read(hub: Hub, tmp_path) -> None:
    write_prompts(source("hf://datasets/o/d@v1/main/train.jsonl"), out=str(tmp_path / "prompts"))
    dataset = shards.open_dataset(str(tmp_path / "prompts"))
    assert [row["answer"] for row in dataset.read_part(0).to_pylist()] == ["2"]
    assert f"@{OLD}/" in next(iter(dataset.spec.inputs.values())).folder


@pytest.mark.parametrize("url", ["hf://datasets/o/none/a.jsonl", "hf://datasets/o/d@v9/a.jsonl", "hf://datasets/o"])
def test_what_the_hub_does_not_have_is_a_named_error(hub: Hub, url: str) -> None:
    with pytest.raises(HubError, match=r"was not found on the hub at http://127\.0\.0\.1"):
        at_commit(url)


def test_a_hub_that_does_not_answer_is_a_named_error(hub: Hub) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(HubError, match="HF_ENDPOINT names another hub"):
        at_commit("hf://datasets/o/d/main/train.jsonl")


def test_other_urls_stay_as_they_are() -> None:
    assert at_commit("s3://bucket/a.jsonl") == "s3://bucket/a.jsonl"
