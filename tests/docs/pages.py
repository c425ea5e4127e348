"""The pages of the documentation, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: what people read; decisions too, which are about the present
PAGES = sorted([*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *DOCS.rglob("*.md")])
BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^\n|\A)((?:^    .*\n|^\n(?=    ))+)", re.MULTILINE)


def name(page: Path) -> str:
    """The page's path, as pytest shows it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[str | None, str]]:
    """(title, body) of a page's fenced blocks in a language."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(block["title"], block["body"]) for block in found if block["language"] == language]


def prose(page: Path) -> str:
    """The page without fenced and indented blocks."""
    return INDENTED.sub("\n", BLOCK.sub("", page.read_text(encoding="utf-8")))


def code_lines(page: Path) -> list[str]:
    """The lines of shell blocks and of indented blocks; a line that ends with a backslash goes with the next."""
    text = page.read_text(encoding="utf-8")
    bodies = [body for _, body in blocks(page, "sh")] + INDENTED.findall(BLOCK.sub("", text))
    return [line.strip() for body in bodies for line in body.replace("\\\n", " ").splitlines() if line.strip()]
