"""Whatever a page points at is there: links, anchors, files, modules, commands, targets, configuration keys."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib

import pytest
from markdown.extensions.toc import slugify

from pipelines.cli import build_parser
from pipelines.options import build
from pipelines.runs.config import RunConfig
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, code_lines, name, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
FOLDERS = ("pass_ops", "trainer", "pipelines", "tests", "benchmarks", "configs", "deploy", "docs", "requirements")
FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]")
MODULE = re.compile(r"\b(?:pass_ops|trainer|pipelines)(?:\.[a-z_]+)+\b")
COMMAND = re.compile(r"(?:^|\s)(?:\.venv/bin/)?passrl (?=[a-z])")
# What a release did with files of its time is history.
NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]


def anchors(page):
    return {slugify(re.sub(r"[`*]", "", heading), "-") for heading in HEADING.findall(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_resolves(page):
    for link in LINK.findall(prose(page)):
        assert "://" not in link or link.startswith("https://"), link
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"
        assert DOCS not in page.parents or DOCS in target.parents, f"{link} leads out of the site"


@pytest.mark.parametrize("page", NOW, ids=name)
def test_every_file_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    missing = [path for path in FILE.findall(text) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", NOW, ids=name)
def test_every_module_that_is_named_exists(page):
    dotted = {path for span in SPAN.findall(prose(page)) for path in MODULE.findall(span)}
    missing = [path for path in dotted if not _exists(path)]
    assert not missing


def _exists(dotted):
    """A module, or a name in the module before the last dot."""
    path = dotted.replace(".", "/")
    if (ROOT / f"{path}.py").exists() or (ROOT / path).is_dir():
        return True
    module, _, attribute = dotted.rpartition(".")
    spec = importlib.util.find_spec(module) if "." in module or (ROOT / module).is_dir() else None
    return spec is not None and attribute in open(spec.origin, encoding="utf-8").read()


@pytest.mark.parametrize("page", NOW, ids=name)
def test_every_command_is_one(page):
    parser = build_parser()
    targets = set(re.findall(r"^([\w%-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in code_lines(page):
        command = line.partition(" #")[0]
        if found := COMMAND.search(command):
            words = shlex.split(re.split(r"[;|]|--(?=\s)", command[found.end() :])[0])
            parser.parse_args([word for word in words if word not in ("...",)])
        elif command.startswith("make "):
            wanted = {word for word in command.split()[1:] if "=" not in word and word.islower()}
            assert all(word in targets or word.startswith("bench-") for word in wanted), command


@pytest.mark.parametrize("page", [page for page in NOW if blocks(page, "toml")], ids=name)
def test_every_configuration_on_a_page_is_accepted(page, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # what a page calls my_package.tools is its own Python
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "tools.py").write_text("".join(body for _, body in blocks(page, "python")))
    for _, body in blocks(page, "toml"):
        given = tomllib.loads(body)
        needed = {"prompts": {"source": "tasks.jsonl"}, "policy": {"model": "model"}}
        build(RunConfig, needed | given, where=name(page))


def test_a_link_that_leads_nowhere_is_caught(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nSee [there](nowhere.md) and [here](#a-page).\n")
    with pytest.raises(AssertionError, match=r"nowhere\.md leads nowhere"):
        test_every_link_resolves(page)
