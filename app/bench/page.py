"""What an open page costs: the same request in a browser and without one, in turn.

The page is served by a process of its own; the runs without it are this process's, on a pair of its own. Both pairs
are warmed up first, and the page is left while it is not measured. Both are loaded anew several times, so that a
difference between two loaded pairs is not taken for the page's.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from app.bench.browser import launch
from app.engine.session import Session
from app.errors import RequestError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record import trace
from app.record.metrics import Metrics
from app.record.trace import ARMS, Request

PROMPT = "Write a short letter to a friend about a walk in the hills."
RUN = """() => {
    const clicked = performance.now();
    new MutationObserver((_, watching) => {
        const token = document.querySelector('.pane-target .tok');
        if (token) {
            watching.disconnect();
            new IntersectionObserver((_, painted) => {
                painted.disconnect();
                window.firstTokenSeconds = (performance.now() - clicked) / 1000;
            }).observe(token);
        }
    }).observe(document.body, {subtree: true, childList: true});
    document.querySelector('#run').click();
}"""
"""Presses Run, and notes when the first token is painted."""
STARTED_SECONDS, FINISHED_SECONDS = 120, 600


def page_cost(starts: int, turns: int, k: int, max_tokens: int) -> str:
    """Medians of TPOT of both arms, with the page and without, and of their ratio, turn by turn; of the time from the
    click on Run to the first token on the page. starts: how often both are loaded; turns: turns of each; at least 2
    tokens, since the first has no time per token. Raises RequestError.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise RequestError(
            "This measurement drives a browser; run ./launch.sh test once, which installs playwright."
        ) from None
    seen: dict[str, list[dict[str, Any]]] = {"page": [], "alone": []}
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page()
        for _ in range(starts):
            session = Session(pairs.load(PairOptions()))
            with _served() as address:
                runs = [
                    ("page", partial(_on_page, page, address, k, max_tokens)),
                    ("alone", partial(_alone, session, k, max_tokens)),
                ]
                for _, run in runs:
                    run()  # warms it up
                for _ in range(turns):
                    for name, run in runs:
                        seen[name].append(run())
                    runs.reverse()  # whoever goes first may find another machine
        browser.close()
    lines = []
    for arm in ARMS:
        with_page, alone = ([summary["arms"][arm]["tpot_s"] for summary in summaries] for summaries in seen.values())
        # of each turn's two runs, since the machine's pace drifts over a measurement
        ratios = [one / other for one, other in zip(with_page, alone, strict=True)]
        page_ms, alone_ms = (1e3 * statistics.median(summaries) for summaries in (with_page, alone))
        loaded = [statistics.median(ratios[at : at + turns]) for at in range(0, len(ratios), turns)]
        spread = ", ".join(f"{ratio:.2f}" for ratio in loaded)
        lines.append(
            f"{arm:12} {page_ms:.2f} ms with the page, {alone_ms:.2f} ms without: ratio "
            f"{statistics.median(ratios):.3f} ({spread})"
        )
    first_token = statistics.median(summary["first_token_s"] for summary in seen["page"])
    lines.append(f"first token {first_token:.2f} s after the click on Run")
    return "\n".join(
        [
            *lines,
            f"medians of {starts} starts with {turns} turns each (in brackets each start's), k = {k}, temperature 0",
        ]
    )


@contextmanager
def _served() -> Iterator[str]:
    """The address of the page, served by a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "app", "serve", "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + STARTED_SECONDS
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            raise RequestError("The page did not start; try ./launch.sh by itself.")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _on_page(page: Any, address: str, k: int, max_tokens: int) -> dict[str, Any]:
    """The run's summary, and as first_token_s the seconds from the click to the first token."""
    page.goto(address)
    page.wait_for_selector(".pg-view")
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#k input[type=number]").fill(str(k))
    page.locator("#more-button").click()
    page.locator("#max input[type=number]").fill(str(max_tokens))
    page.evaluate(RUN)
    # seldom asked, and cheap to answer: the measurement is no part of what is measured
    finished = (
        "(window.Playground.store.run.finished || window.Playground.store.run.error) && !window.Playground.store.live"
    )
    page.wait_for_function(finished, polling=250, timeout=1e3 * FINISHED_SECONDS)
    text = str(page.evaluate("window.Playground.store.run.jsonl"))
    first_token = float(page.evaluate("window.firstTokenSeconds"))
    page.goto("about:blank")
    return {**Metrics(trace.read_text(text)).summary(), "first_token_s": first_token}


def _alone(session: Session, k: int, max_tokens: int) -> dict[str, Any]:
    return Metrics(session.run(Request(PROMPT, k=k, max_tokens=max_tokens))).summary()
