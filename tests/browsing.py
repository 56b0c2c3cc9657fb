"""A headless Chromium that looks at pages: what it logs, what overflows, what axe finds, and screenshots.

DISTILL_SCREENSHOTS=FOLDER keeps the screenshots.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Look = Callable[..., AbstractContextManager[Any]]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--renderer-process-limit=1"]
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "print": {"viewport": {"width": 718, "height": 1000}, "color_scheme": "dark"},  # A4, of a dark system
}
# what cannot be read: names that stick out of their drawing, and text that is scaled too small
UNREADABLE = """(least) => [...document.querySelectorAll("figure div > svg")].flatMap((svg) => {
  if (!svg.clientWidth) return [];
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const beyond = (at) => at.left < box.left - 2 || at.right > box.right + 2;
  const out = (text) => beyond(text.getBoundingClientRect());
  const small = 10.5 * scale < least ? [`text of ${10.5 * scale} px`] : [];
  return [...small, ...[...svg.querySelectorAll("text")].filter(out).map((text) => text.textContent)];
})"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests; they are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH: the pages were not looked at in a browser")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def look(browser: Any) -> Look:
    """`with look(page, view) as opened`: opens a page, of which what the browser logs is a failure."""
    return partial(looking, browser.new_page())


@contextmanager
def looking(opened: Any, page: Path, view: str, fragment: str = "") -> Iterator[Any]:
    """The page in a view, in a tab that knows of no page before; whatever the browser logs is a failure."""
    said: list[str] = []
    hears = {"console": lambda message: said.append(message.text), "pageerror": lambda error: said.append(str(error))}
    opened.set_viewport_size(VIEWS[view]["viewport"])
    opened.emulate_media(media="screen", color_scheme=VIEWS[view]["color_scheme"])
    for event, hear in hears.items():
        opened.on(event, hear)
    opened.goto(f"file://{page}{fragment}")
    if view == "print":
        opened.emulate_media(media="print")
    try:
        yield opened
        assert said == []
    finally:
        for event, hear in hears.items():
            opened.remove_listener(event, hear)
        opened.evaluate("localStorage.clear()")
        opened.goto("about:blank")


def check(opened: Any, view: str, name: str, axe: bool = True) -> None:
    """Nothing sticks out, everything can be read, axe finds nothing; a screenshot is kept where that was asked for."""
    wide, room = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= room, f"{name}, {view}: {wide} pixels wide in a window of {room}"
    unreadable = opened.evaluate(UNREADABLE, 7 if view == "print" else 9)  # pixels of the smallest text
    assert not unreadable, f"{name}, {view}: {unreadable[:5]}"
    found = violations(opened) if axe and view != "print" else []
    assert not found, f"{name}, {view}: {found}"
    if folder := os.environ.get("DISTILL_SCREENSHOTS"):
        opened.screenshot(path=Path(folder) / f"{name}-{view}.png", full_page=True)


def violations(opened: Any) -> list[str]:
    """What axe finds, each with the first place."""
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    opened.evaluate(axe)
    found = opened.evaluate("axe.run(document, {resultTypes: ['violations']}).then((one) => one.violations)")
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:120]}" for one in found]
