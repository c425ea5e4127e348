"""One HTML file of a head and its groups' blocks: the page's template, modules and styles, and the data beside them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.view.payload import finite

PAGE = Path(__file__).parent / "page"
MAIN = "passrl/main"
_ESCAPED = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_PLACES = re.compile(r"<!-- passrl:(?:styles|modules|licences|payload) -->|PASSRL_NONCE|PASSRL_TITLE")


def view_html(head: Mapping[str, Any], blocks: Iterable[bytes]) -> bytes:
    """The whole file, as docs/reference/view-payload.md describes it; the same bytes for the same input.

    head: JSON-able. blocks: one a group, as `pipelines.view.payload.block` makes them.
    """
    styles, modules = _styles(), _modules()
    digests = [str(dataset["content_digest"]) for dataset in head["datasets"]]
    nonce = hashlib.sha256("\n".join([styles, *modules.values(), *digests]).encode()).hexdigest()
    places = {
        "<!-- passrl:styles -->": f'<style nonce="{nonce}">\n{styles}</style>',
        "<!-- passrl:modules -->": _scripts(modules, nonce),
        "<!-- passrl:licences -->": _inert("passrl-licences", html.escape(_licences(), quote=False)),
        "<!-- passrl:payload -->": "\n".join(_payload(head, blocks)),
        "PASSRL_NONCE": nonce,
        "PASSRL_TITLE": html.escape(str(head["title"])),
    }
    template = (PAGE / "index.html").read_text(encoding="utf-8")
    return _PLACES.sub(lambda place: places[place[0]], template).encode()


def json_text(value: Any) -> str:
    r"""JSON that no HTML parser can take for anything else.

    >>> json_text({"text": "</script>"})
    '{"text":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(finite(value), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return "".join(_ESCAPED.get(character, character) for character in text)


def packed(content: bytes) -> str:
    """deflate-raw, then base64."""
    squeezer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return base64.b64encode(squeezer.compress(content) + squeezer.flush()).decode()


def _payload(head: Mapping[str, Any], blocks: Iterable[bytes]) -> Iterable[str]:
    yield f'<script type="application/json" id="passrl-head">{json_text(head)}</script>'
    for number, content in enumerate(blocks):
        yield _inert(f"passrl-group-{number}", packed(content))


def _inert(name: str, text: str) -> str:
    """An element of text that is neither run nor shown."""
    return f'<script type="text/plain" id="{name}">{text}</script>'


def _styles() -> str:
    return "".join(file.read_text(encoding="utf-8") for file in sorted(PAGE.glob("*.css")))


def _modules() -> dict[str, str]:
    """The name that a module is imported by -> a URL that holds it."""
    files = {f"passrl/{file.stem}": file for file in sorted(PAGE.glob("*.js"))}
    files |= {file.stem: file for file in sorted((PAGE / "vendor").glob("*.js"))}
    start = "data:text/javascript;base64,"
    return {name: start + base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}


def _scripts(modules: Mapping[str, str], nonce: str) -> str:
    imports = json_text({"imports": modules})
    return (
        f'<script type="importmap" nonce="{nonce}">{imports}</script>\n'
        f'<script type="module" nonce="{nonce}">import "{MAIN}";</script>'
    )


def _licences() -> str:
    return "\n\n".join(file.read_text(encoding="utf-8") for file in sorted((PAGE / "vendor").glob("LICENSE*")))
