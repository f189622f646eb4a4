"""Debian's chromium, driven by playwright, and where it leaves its pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

SHOTS = Path(__file__).parents[1] / "screenshots"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where none is installed."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield browser
        finally:
            browser.close()


LOOKS: dict[str, tuple[int, int]] = {
    "light": (900, 0),
    "dark": (900, 0),
    "phone": (390, 60),
}
"""Widths in pixels, and by how much a picture is higher than another one."""


def shoot(page: Page, name: str, height: int = 440) -> None:
    """Leave pictures of a page for people to look at: light, dark, and on a phone."""
    SHOTS.mkdir(exist_ok=True)
    before = page.viewport_size
    for look, (width, more) in LOOKS.items():
        page.emulate_media(color_scheme="dark" if look == "dark" else "light")
        page.set_viewport_size({"width": width, "height": height + more})
        page.screenshot(path=SHOTS / f"{name}-{look}.png", animations="disabled")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} pixels wide on a screen of {width}"
    page.emulate_media(color_scheme=None)
    if before:
        page.set_viewport_size(before)
