"""Long answers: both panes begin at their first line, and show the same place of the text from then on."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Open
from tests.e2e.driving import finish, start

ARMS = ("target", "speculative")


def tops(page: Page) -> list[float]:
    return [page.evaluate(f"document.querySelector('.pane-{arm} .pane-text').scrollTop") for arm in ARMS]


def in_sight(page: Page, arm: str, token: str) -> bool:
    """Whether a token of that pane lies within what the pane shows."""
    script = """([arm, token]) => {
        const pane = document.querySelector(`.pane-${arm} .pane-text`);
        const last = [...pane.querySelectorAll(token)].at(-1);
        const [frame, spot] = [pane, last].map((element) => element.getBoundingClientRect());
        const middle = (spot.top + spot.bottom) / 2; // marks reach over their line
        return frame.top < middle && middle < frame.bottom;
    }"""
    return bool(page.evaluate(script, [arm, token]))


def test_long_answers_begin_at_the_top_and_show_the_same_place(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 900, "height": 700})
    start(page, 400)
    finish(page)
    assert tops(page) == [0, 0]
    assert not in_sight(page, "target", ".tok"), "the answer is longer than its pane"

    # a key walks to a token far below; its twin comes into sight, whatever refused drafts stand before it
    page.locator(".pane-target .tok").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".pane-target .tok.current")).to_have_count(1)
    page.wait_for_function("document.querySelector('.pane-target .pane-text').scrollTop > 0")
    for arm, token in zip(ARMS, (".current", ".same-place"), strict=True):
        page.wait_for_timeout(100)
        assert in_sight(page, arm, token), arm

    for arm, other in (ARMS, ARMS[::-1]):
        page.evaluate(f"document.querySelector('.pane-{arm} .pane-text').scrollTop = 0")
        page.wait_for_function(f"document.querySelector('.pane-{other} .pane-text').scrollTop === 0")
        page.evaluate(f"document.querySelector('.pane-{arm} .pane-text').scrollTop = 100")
        page.wait_for_function(f"document.querySelector('.pane-{other} .pane-text').scrollTop > 0")
