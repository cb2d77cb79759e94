"""axe-core finds no serious fault anywhere; keyboard alone runs the demo; at 200% zoom the page is filled."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.bench.cards import read_cards
from app.record import trace
from app.ui.assets import REPLAYS
from app.ui.site import site
from tests.e2e.conftest import Open
from tests.e2e.driving import FINISHED, finish, start

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def assert_no_fault(page: Page, where: str, allowed: tuple[str, ...] = ("minor",)) -> None:
    """But for those whose impact is allowed."""
    found: dict[str, Any] = page.evaluate("axe.run(document, { resultTypes: ['violations'], preload: false })")
    faults = [
        f"{where}: {fault['impact']} {fault['id']} ({fault['help']}): "
        f"{[node['html'][:160] for node in fault['nodes'][:4]]}"
        for fault in found["violations"]
        if fault["impact"] not in allowed
    ]
    assert not faults, "\n".join(faults)


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
        assert_no_fault(page, tab)
    page.get_by_role("tab", name="Playground").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("p")
    expect(page.locator("#controls")).to_be_hidden()
    assert_no_fault(page, "presentation")


def export(folder: Path) -> Path:
    """A site of one recorded run; that run's page."""
    path = REPLAYS / "3-lossy.jsonl"
    for name, content in site({path.stem: trace.read(path.read_text(encoding="ascii").splitlines())}).items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder / f"{path.stem}.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_in_an_exported_site(open_page: Open, address: str, tmp_path: Path, scheme: str) -> None:
    exported = export(tmp_path)
    page = open_page(address, color_scheme=scheme)
    page.goto((exported.parent / "index.html").as_uri())
    page.evaluate(AXE)
    assert_no_fault(page, "index")
    page.locator("a.try").first.click()
    page.wait_for_function(FINISHED)
    page.locator(".pane-speculative .tok.k-corrected").first.click()
    page.evaluate(AXE)
    assert_no_fault(page, "a run")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    assert_no_fault(page, "a run in the room")


@pytest.mark.parametrize("width", [390, 640, 1280])
def test_an_exported_run_in_the_room_says_whose_panes_these_are(
    open_page: Open, address: str, tmp_path: Path, width: int
) -> None:
    exported = export(tmp_path)
    page = open_page(address, viewport={"width": width, "height": 800})
    page.goto(exported.as_uri())
    page.wait_for_function(FINISHED)
    page.keyboard.press("p")
    expect(page.locator("#pg-rounds")).to_be_hidden()
    for arm in ("target", "speculative"):
        expect(page.locator(f".pane-{arm} h2")).to_be_visible()
    cells = page.locator(".heroes .cell p").evaluate_all("(all) => all.map((p) => [p.scrollWidth, p.clientWidth])")
    assert len(cells) == 4
    assert all(needed <= given for needed, given in cells), cells


def test_keyboard_alone_runs_the_demo(open_page: Open, address: str) -> None:
    page = open_page(address)

    def tab_to(selector: str) -> None:
        """Tab until something in there has the focus, whose ring is then seen."""
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => Boolean(document.activeElement.closest(selector))", selector):
                style = page.evaluate(
                    "(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])"
                    "(getComputedStyle(document.activeElement))"
                )
                assert style in (["solid", "2px"], ["solid", "3px"]), selector
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#prompt")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("Say hello.")
    tab_to("#k")
    tab_to("#run")
    page.keyboard.press("Enter")
    page.wait_for_function(FINISHED)
    expect(page.locator(".asked-prompt")).to_have_text("Say hello.")
    tab_to(".race-slider")
    tab_to(".play")
    tab_to(".pane-speculative")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".pg-card.pinned")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".pg-card")).to_be_hidden()
    page.keyboard.press("p")
    expect(page.locator("#controls")).to_be_hidden()
    drawn = next(place for place, card in enumerate(read_cards(), 1) if card["settings"].get("temperature"))
    page.keyboard.press(str(drawn))
    page.wait_for_function("window.Playground?.store?.run.started?.request.sampling.temperature > 0")
    page.wait_for_function(FINISHED)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("window.Playground.store.time < Infinity")
    page.keyboard.press("Escape")
    expect(page.locator("#controls")).to_be_visible()


def test_the_page_is_filled_at_every_width_and_at_200_percent(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 640, "height": 400}, device_scale_factor=2)
    start(page, 24)
    finish(page)
    for width in (640, 430, 560, 700, 1280):
        page.set_viewport_size({"width": width, "height": 400})
        for part in (".pg-view", ".headline", ".course", ".panes"):
            box = page.locator(part).bounding_box()
            assert box is not None
            assert box["x"] <= 24, (part, width)
            assert box["x"] + box["width"] >= width - 24, (part, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
