"""Every interactive block of the documentation runs and prints what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WRITTEN = (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
PAGES = sorted(path for path in WRITTEN if BLOCK.search(path.read_text(encoding="utf-8")))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page: Path) -> doctest.DocTest:
    """All blocks of a page as one session; line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    kept = [" "] * len(text)
    for block in BLOCK.finditer(text):
        kept[block.start(1) : block.end(1)] = text[block.start(1) : block.end(1)]
    session = "".join(char if char == "\n" else kept[at] for at, char in enumerate(text))
    return doctest.DocTestParser().get_doctest(session, {"__name__": "page"}, page.name, str(page), 0)


def test_the_readme_and_the_page_about_the_library_have_blocks_to_run():
    assert {ROOT / "docs" / "how-to" / "library.md", ROOT / "README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_prints_what_it_says(page):
    session = examples(page)
    assert session.examples
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(session, out=report.append)
    assert not report, "".join(report)


def test_a_page_that_lies_is_caught(tmp_path):
    page = tmp_path / "lie.md"
    page.write_text("# Page\n\n```pycon\n>>> 1 + 1\n3\n```\n\n```sh\n>>> not python\n```\n")
    session = examples(page)
    assert len(session.examples) == 1
    assert doctest.DocTestRunner(verbose=False).run(session, out=lambda text: None).failed == 1
