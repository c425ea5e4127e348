"""The generated pages are those of the code, the site builds strictly and asks no other host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from docs.generate import PAGES as GENERATED
from tests.docs.pages import DOCS, PAGES, ROOT, name

ASSET = re.compile(r"<(?:link|script|img|iframe)\b[^>]*?(?:href|src)=[\"']?((?:https?:)?//[^\"' >]+)")
IMPORTED = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)")


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_up_to_date(page):
    assert (DOCS / page).read_text(encoding="utf-8") == GENERATED[page](), "run `make reference`"


def test_the_site_builds_strictly_and_is_offline(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    files = [path for suffix in ("html", "css") for path in (tmp_path / "site").rglob(f"*.{suffix}")]
    assert len(files) > 30
    texts = [path.read_text(encoding="utf-8") for path in files]
    foreign = {found for text in texts for found in (*ASSET.findall(text), *IMPORTED.findall(text))}
    assert not foreign


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_points_outside_the_project(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w/])(?:pass|contract)\.md 0-9|\.\./shared|/work/", text)
