"""A real browser for the tests: which one, and a page in it whose complaints are kept. Skips where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync", "--disable-background-networking")
QUIET += ("--disable-component-update",)
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@dataclass
class Page:
    """A page of playwright, the errors it logged, and every address outside `home` that it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@contextmanager
def open_page(url: str, width: int = 900, height: int = 600) -> Iterator[Page]:
    """Open `url` in a headless browser that draws WebGL in software."""
    if BROWSER is None:
        pytest.skip("no Chromium found")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev dependency group)")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=[*QUIET, *SOFTWARE_WEBGL])
        try:
            opened = Page(browser.new_page(viewport={"width": width, "height": height}))
            opened.page.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
            opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
            opened.page.on("request", lambda r: _note_foreign(opened, r.url, url))
            opened.page.goto(url)
            yield opened
        finally:
            browser.close()


def _note_foreign(opened: Page, address: str, home: str) -> None:
    if not address.startswith((home, "data:", "blob:")):
        opened.foreign.append(address)
