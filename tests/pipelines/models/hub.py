"""The few answers of the Hugging Face hub that a download asks for, from a folder, on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"


@contextmanager
def fake_hub(folder: str, *, name: str = "org/tiny", revisions: tuple[str, ...] = ("main", "v1")) -> Iterator[str]:
    """One repository, whose every revision is COMMIT; gives the endpoint's URL."""
    files = {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"/api/models/{name}/revision/"):
                if path.rpartition("/")[2] in revisions:
                    return self.say(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
                return self.fail("RevisionNotFound")
            if path == f"/api/models/{name}/tree/{COMMIT}":
                return self.say(json.dumps([entry(file) for file in files]).encode())
            if path.startswith(f"/{name}/resolve/{COMMIT}/") and (file := path.rpartition("/")[2]) in files:
                return self.say(files[file], ETag=f'"{oid(file)}"', **{"X-Repo-Commit": COMMIT})
            return self.fail("RepoNotFound")

        def say(self, content: bytes, **headers: str) -> None:
            self.send_response(200)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def fail(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def oid(file: str) -> str:
        return hashlib.sha1(files[file]).hexdigest()

    def entry(file: str) -> dict[str, object]:
        return {"type": "file", "path": file, "size": len(files[file]), "oid": oid(file)}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
