"""How the tests drive the page: a run started and awaited, what the page shows of it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from app.record import trace
from app.record.metrics import Metrics
from app.record.trace import Trace

# also asked of a page that is still loading, which has no store yet
FINISHED = "() => { const s = window.Playground?.store; return s && !s.live && (s.run.finished || s.run.error) }"


def more(page: Page) -> None:
    """The knobs that a first run does not need, in sight."""
    button = page.locator("#more-button")
    if button.get_attribute("aria-expanded") != "true":
        button.click()
    expect(page.locator("#more")).to_be_visible()


def start(page: Page, max_tokens: int = 48, prompt: str | None = None) -> None:
    more(page)
    if prompt is not None:
        page.locator("#prompt textarea").fill(prompt)
    page.locator("#max input[type=number]").fill(str(max_tokens))
    page.locator("#run").click()


def finish(page: Page) -> Trace:
    """The trace of the run on the page, once it is over."""
    page.wait_for_function(FINISHED)
    return shown_trace(page)


def shown_trace(page: Page) -> Trace:
    return trace.read(str(page.evaluate("window.Playground.store.run.jsonl")).splitlines())


def pane_text(page: Page, arm: str) -> str:
    """What the pane shows, without its signs for line ends and without refused drafts and control tokens."""
    # the spaces before a token stand outside its box
    script = """(arm) => [...document.querySelectorAll(`.pane-${arm}
             .tok:not(.k-rejected):not(.k-discarded):not(.special)`)]
        .map((token) => [token.previousSibling, token].map((node) =>
            node === token || node?.nodeType === Node.TEXT_NODE ? node.textContent : "").join("")).join("")"""
    return str(page.evaluate(script, arm)).replace("↵\n", "\n")


def lead(events: Trace, time: float) -> str:
    """Who is ahead at that moment of a replay, before its end, as the race says it."""
    target, speculative = (
        sum(clock <= time + 1e-9 for clock in Metrics(events).arms[arm].arrivals) for arm in ("target", "speculative")
    )
    if not target and not speculative:
        return "both read the prompt"
    ahead = abs(speculative - target)
    who = "speculative" if speculative > target else "target only"
    return f"{who} ahead by {ahead} token{'s' if ahead > 1 else ''}" if ahead else "level"


def figure(page: Page, name: str) -> str:
    return page.locator(f'.headline [data-figure="{name}"]').inner_text()
