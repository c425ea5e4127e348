"""A file of `passrl view` read back as docs/reference/view-payload.md describes it, by the library's HTML parser."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import numpy as np

_DTYPES = {"u1": np.uint8, "i4": np.int32, "u4": np.uint32, "f4": np.float32}


@dataclass
class Block:
    """A group: its head, and its arrays by name."""

    head: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def of(self, name: str, row: int) -> np.ndarray:
        """A rollout's items of an array."""
        axis = next(array["axis"] for array in self.head["arrays"] if array["name"] == name)
        offsets = self.arrays[f"offsets:{axis}"]
        return self.arrays[name][offsets[row] : offsets[row + 1]]

    def tokens(self, row: int) -> list[bytes]:
        """The bytes of each of a rollout's tokens."""
        ends = [0, *np.cumsum(self.arrays["text_lengths"]).tolist()]
        first, last = self.arrays["offsets:token"][row : row + 2]
        content = self.arrays["text"].tobytes()
        return [content[ends[t] : ends[t + 1]] for t in range(first, last)]


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: dict[str, str] = {}
        self.tags: list[str] = []
        self._name: str | None = None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._name = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._name = None

    def handle_data(self, data):
        if self._name is not None:
            self.found[self._name] = self.found.get(self._name, "") + data


def parse(content: bytes) -> tuple[dict[str, Any], list[Block], list[str]]:
    """The head, the groups' blocks, and every tag of the file in order."""
    scripts = _Scripts()
    scripts.feed(content.decode())
    scripts.close()
    head = json.loads(scripts.found["passrl-head"])
    blocks = [_block(scripts.found[f"passrl-group-{number}"]) for number in range(len(head["groups"]))]
    assert f"passrl-group-{len(blocks)}" not in scripts.found
    return head, blocks, scripts.tags


def _block(text: str) -> Block:
    content = zlib.decompress(base64.b64decode(text, validate=True), -zlib.MAX_WBITS)
    length = int.from_bytes(content[:4], "little")
    head = json.loads(content[4 : 4 + length])
    arrays = {}
    for array in head["arrays"]:
        kind = np.dtype(_DTYPES[array["dtype"]])
        size, count = kind.itemsize, array["count"]
        made = bytearray(size * count)
        for i in range(count):
            for b in range(size):
                made[i * size + b] = content[4 + length + array["at"] + b * count + i]
        arrays[array["name"]] = np.frombuffer(bytes(made), kind.newbyteorder("<"))
    return Block(head, arrays)
