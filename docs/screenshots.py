"""Writes the pictures of the viewer's page, docs/explanation/images/view-*.webp, from a finished demo.

python docs/screenshots.py [RUN]          # what `make screenshots` runs; default: runs/demo

Needs Chromium on this machine (apt-get install chromium).
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from pipelines.view.options import ViewOptions
from pipelines.view.view import View, make_view

IMAGES = Path(__file__).parent / "explanation" / "images"
SIZE = {"width": 1200, "height": 750}
GRID: dict[str, list[Any]] = {"estimator": ["pass", "grpo_outcome"]}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """fragment: the view's place; focus: an element to focus first."""

    name: str
    fragment: str
    ready: str
    focus: str = ""
    scheme: str = "light"


def pictures(head: dict[str, Any]) -> list[Picture]:
    """Every view once, one of them dark; the group is one with sign flips and without an outlier."""
    number, flips = max(
        ((index, group["flips"]) for index, group in enumerate(head["groups"]) if max(group["flips"]) > 0),
        key=lambda one: _evenness(head["groups"][one[0]]),
    )
    group, against = f"#/group/{number}", flips.index(max(flips))
    chunk = ".rollout[data-row='1'] [data-chunk='2']"
    return [
        Picture(name="groups", fragment="#/groups?sort=spread&desc=1", ready=".groups tbody tr"),
        Picture(name="group", fragment=group, ready=chunk, focus=chunk),
        Picture(name="dark", fragment=f"{group}?colour=behavior_logprobs", ready=chunk, focus=chunk, scheme="dark"),
        Picture(name="two-settings", fragment=f"{group}?against={against}", ready=".paired .chunk"),
        Picture(name="offenders", fragment="#/offenders", ready=".offenders tbody tr"),
        Picture(name="run", fragment="#/run", ready=".chart"),
    ]


def _evenness(group: dict[str, Any]) -> float:
    return float(group["advantage_std"] / max(-group["advantage_min"], group["advantage_max"]))


def take(browser: Browser, file: Path, picture: Picture) -> bytes:
    """The picture, without loss: the colours of tokens are what it shows."""
    page = browser.new_page(viewport=SIZE, color_scheme=picture.scheme)  # type: ignore[arg-type]
    page.goto(file.as_uri() + picture.fragment)
    page.wait_for_selector(picture.ready)
    if picture.focus:
        page.locator(picture.focus).first.focus()
        page.locator(".inspector h3").wait_for()
    taken = page.screenshot()
    page.close()
    small = io.BytesIO()
    Image.open(io.BytesIO(taken)).convert("RGB").save(small, "WEBP", lossless=True, quality=100, method=6)
    return small.getvalue()


def main() -> None:
    """Make the file, look at it, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="runs/demo")
    view: View = make_view([parser.parse_args().run], options=ViewOptions(truth="execution"), grid=GRID)
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder) / "credit.html"
        file.write_bytes(view.content)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        for picture in pictures(dict(view.head)):
            content = take(browser, file, picture)
            (IMAGES / f"view-{picture.name}.webp").write_bytes(content)
            print(f"{IMAGES / f'view-{picture.name}.webp'}: {len(content):,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
