"""A browser to drive, for the measurement of the page and for the tests: an installed one, else Playwright's own.

Run as a program it starts one and closes it again; exit code 2 and a sentence where none starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import RequestError, exit_code

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "microsoft-edge-stable",
)
APPLICATIONS = ("Google Chrome", "Chromium", "Microsoft Edge")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch(playwright: Playwright) -> Browser:
    """The first browser of `candidates` that starts. Raises RequestError."""
    from playwright.sync_api import Error

    for candidate in candidates():
        with suppress(Error):
            return playwright.chromium.launch(executable_path=candidate, args=FLAGS)
    if named := os.environ.get("PLAYGROUND_BROWSER"):
        raise RequestError(f"PLAYGROUND_BROWSER={named} is no Chromium that starts; name another, or unset it.")
    raise RequestError(
        "No browser was found that starts; install Chromium, Google Chrome or Microsoft Edge, "
        "or name the program with PLAYGROUND_BROWSER."
    )


def candidates() -> Iterator[Path | None]:
    """Where a browser may be, likeliest first; None: Playwright's own. PLAYGROUND_BROWSER names the only one."""
    if named := os.environ.get("PLAYGROUND_BROWSER"):
        yield Path(named)
        return
    for program in PROGRAMS:
        if installed := shutil.which(program):
            yield Path(installed)
    for application in APPLICATIONS:  # macOS
        path = Path("/Applications") / f"{application}.app" / "Contents" / "MacOS" / application
        if path.exists():
            yield path
    yield None


def check() -> None:
    """Start and end the browser. Raises PlaygroundError where there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launch(playwright).close()


if __name__ == "__main__":
    raise SystemExit(exit_code(check))
