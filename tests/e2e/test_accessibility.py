"""axe-core finds no serious fault in any tab, light or dark, with a run on the page, nor in the room."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Open
from tests.e2e.driving import finish, start

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def assert_no_serious_fault(page: Page, where: str) -> None:
    found: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        f"{where}: {fault['id']} ({fault['help']}): {[node['html'][:160] for node in fault['nodes'][:4]]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)


def compare(page: Page) -> None:
    """A recorded run beside this one."""
    page.evaluate("window.Playground.view.showFirst()")
    runs = page.locator(".instrument-runs li")
    expect(runs).to_have_count(2)
    for place in (0, 1):
        runs.nth(place).get_by_role("checkbox").check()
    expect(page.locator(".instrument-comparison table").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_in_any_tab_nor_in_the_room(open_page: Open, address: str, scheme: str) -> None:
    page = open_page(address, color_scheme=scheme)
    start(page, 40)
    finish(page)
    page.locator(".go-on button").click()
    expect(page.locator(".chat-turns li")).to_have_count(2)
    page.get_by_role("button", name="edit turn 2").click()
    page.locator(".pane-speculative .tok.k-accepted").first.click()
    expect(page.locator(".panes .pg-card.pinned")).to_be_visible()
    page.evaluate(AXE)
    for tab in page.get_by_role("tab").all_inner_texts():
        page.get_by_role("tab", name=tab).click()
        if tab == "Instruments":
            expect(page.locator("#instruments-view .plot-area .main-svg").first).to_be_visible()
            compare(page)
        assert_no_serious_fault(page, tab)
    page.get_by_role("tab", name="Playground").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("p")
    expect(page.locator("#controls")).to_be_hidden()
    assert_no_serious_fault(page, "presentation")
