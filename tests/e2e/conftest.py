"""A browser, and pages served from toy sessions. Every page in it is watched for errors and for requests elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, expect, sync_playwright

from app.bench.browser import launch
from tests.support.pages import served, toy_session

TIMEOUT_MS = 90_000  # for a machine busy with other things; no test waits that long where it is idle
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"

expect.set_options(timeout=TIMEOUT_MS)

Open = Callable[..., Page]
Serve = Callable[..., str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser: Browser) -> BrowserContext:
    """One person's browser: what it has fetched and kept, the pages of all tests share. It asks for little motion, so
    that a run stays shown whole when it has ended."""
    return browser.new_context(accept_downloads=True, reduced_motion="reduce")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves what `served` takes until the test's end; answers with the address."""
    with ExitStack() as stack:
        yield lambda *what, **more: stack.enter_context(served(*what, **more))


@pytest.fixture
def open_page(browser: Browser, context: BrowserContext, serve: Serve) -> Iterator[Open]:
    """Opens addresses, in a browser of their own where they have options.

    At the end nothing may have failed, popped up, or been asked of another host. Pages go before those who serve them.
    """
    pages: list[Page] = []
    faults: list[str] = []

    def open_(address: str, **options: Any) -> Page:
        page = (
            browser.new_context(accept_downloads=True, **{"reduced_motion": "reduce", **options})
            if options
            else context
        ).new_page()
        page.set_default_timeout(TIMEOUT_MS)
        pages.append(page)
        host = urlsplit(address).netloc

        def on_request(request: Request) -> None:
            url = urlsplit(request.url)
            if url.scheme in ("http", "https", "ws", "wss") and url.netloc != host:
                faults.append(f"asked another host: {request.url}")

        def on_console(message: ConsoleMessage) -> None:
            # what gradio itself says when a page goes away during a run
            leaving = ("signal is aborted without reason", "Connection errored out")
            if message.type == "error" and not any(words in message.text for words in leaving):
                faults.append(f"console: {message.text}")

        def on_dialog(dialog: Dialog) -> None:
            faults.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: faults.append(f"uncaught: {error}"))
        page.on("dialog", on_dialog)
        page.goto(address)
        page.locator(".pg-view").wait_for()
        return page

    yield open_
    for page in pages:
        if page.context is context:
            page.close()
        else:
            page.context.close()
    assert not faults


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A pair that agrees well, slow enough to be watched and quick enough to wait for."""
    with served(toy_session(agreement="good", n_positions=4096, delay=0.004)) as address:
        yield address


@pytest.fixture(scope="session")
def hostile_address() -> Iterator[str]:
    """A model that writes HTML."""
    with served(toy_session(script=HOSTILE, agreement="good", n_positions=1024)) as address:
        yield address


@pytest.fixture(scope="session")
def slow_address() -> Iterator[str]:
    """A model so slow that a run lasts until it is stopped."""
    with served(toy_session(agreement="good", n_positions=4096, delay=0.05)) as address:
        yield address


@pytest.fixture(scope="session")
def replay_address() -> Iterator[str]:
    """No model: recorded runs alone."""
    with served(None) as address:
        yield address


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path
