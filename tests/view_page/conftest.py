"""A page in headless Chromium, the machine's own. Where there is none these tests are skipped, unless
PASSRL_REQUIRE_CHROMIUM=1 (`.ci/run`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REQUIRED = os.environ.get("PASSRL_REQUIRE_CHROMIUM") == "1"
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """One browser a file of tests: a driver kept longer would leave its event loop to other tests of the process."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and not REQUIRED:
        pytest.skip(f"no Chromium here ({', '.join(NAMES)}): apt-get install chromium")
    assert found is not None, "PASSRL_REQUIRE_CHROMIUM=1, and no Chromium is on PATH"
    if not REQUIRED:
        pytest.importorskip("playwright", reason="no playwright here: it comes with the extra `dev`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, timeout=120_000)
        yield started
        started.close()


@pytest.fixture
def expect(browser) -> object:
    """Playwright's assertions that wait. They look from a world of their own: `page.wait_for_function` asks the page
    itself to evaluate text from its second look on, which the page's Content-Security-Policy refuses."""
    from playwright.sync_api import expect as waiting

    waiting.set_options(timeout=120_000)
    return waiting


@pytest.fixture
def open_file(browser, tmp_path) -> Iterator[Callable]:
    """Opens bytes as a file in a page of its own; at the end no page may have had an error or asked for anything."""
    contexts, faults = [], []

    def opened(content: bytes, fragment: str = "", *, ready: str = "main > :not(.loading)", **options):
        file = Path(tmp_path) / f"{len(contexts)}.html"
        file.write_bytes(content)
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else faults.append(asked.url))
        page.goto(f"{file.as_uri()}{fragment}")
        page.wait_for_selector(ready)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
