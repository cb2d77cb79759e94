"""The Tune k tab as a person uses it, on toys."""

from __future__ import annotations

import csv
import io
import re

from playwright.sync_api import Page, expect

from tests.e2e.conftest import Open
from tests.e2e.driving import finish, start


def open_tab(page: Page, max_tokens: int = 40) -> None:
    page.get_by_role("tab", name="Tune k").click()
    page.locator("#tune-max input[type=number]").fill(str(max_tokens))
    page.locator("#tune-repeats input[type=number]").fill("1")


def test_a_sweep_ends_with_the_best_window_and_its_plots(open_page: Open, address: str) -> None:
    page = open_page(address)
    open_tab(page)
    page.locator("#tune-start").click()
    expect(page.locator("#tune-progress [role=progressbar]")).to_be_visible()
    expect(page.locator("#tune-progress")).to_contain_text("5 runs of both arms")
    rows = page.locator("#tune-words tbody tr")
    expect(rows).to_have_count(5)
    expect(page.locator("#tune-words .verdict")).to_contain_text(re.compile(r"k = \d"))
    expect(page.locator("#tune-words tr.best")).to_have_count(1)
    expect(page.locator("#tune-elsewhere")).to_contain_text("a projection, not a measurement")
    areas = page.locator("#tune-figures .plot-area")
    expect(areas).to_have_count(3)
    expect(areas.nth(0).locator(".scatterlayer .trace")).to_have_count(4)
    with page.expect_download() as table:
        page.get_by_role("button", name="CSV").first.click()
    table_rows = list(csv.DictReader(io.StringIO(table.value.path().read_text(encoding="utf-8"))))
    assert [row["k"] for row in table_rows] == ["2", "3", "4", "5", "8"]
    assert [row["standing"] for row in table_rows].count("best") == 1
    with page.expect_download() as drawn:
        page.get_by_role("button", name="PNG").first.click()
    assert drawn.value.path().read_bytes().startswith(b"\x89PNG")


def test_stop_ends_a_sweep(open_page: Open, slow_address: str) -> None:
    page = open_page(slow_address)
    open_tab(page, 400)
    page.locator("#tune-start").click()
    expect(page.locator("#tune-progress")).to_contain_text("run 1 of 5")
    page.locator("#tune-stop").click()
    expect(page.locator("#tune-progress")).to_contain_text(re.compile("Stopped after [0-4] of 5 runs"))
    # the device is free again
    page.get_by_role("tab", name="Playground").click()
    start(page, 2)
    assert finish(page)


def test_the_run_in_the_playground_is_judged(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.get_by_role("tab", name="Tune k").click()
    page.locator("#what-if").click()
    expect(page.locator("#what-if-answer")).to_contain_text("press Run there first")
    page.get_by_role("tab", name="Playground").click()
    page.locator("#k input[type=number]").fill("4")
    start(page, 48)
    finish(page)
    page.get_by_role("tab", name="Tune k").click()
    page.locator("#what-if").click()
    expect(page.locator("#what-if-answer tbody tr")).to_have_count(3)


def test_no_window_chosen_is_a_sentence(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 390, "height": 800})
    open_tab(page)
    for k in (2, 3, 4, 5, 8):
        page.locator("#tune-ks").get_by_label(str(k), exact=True).uncheck()
    page.locator("#tune-start").click()
    expect(page.locator("#tune-progress [role=alert]")).to_contain_text("No window cannot be swept")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_playgrounds_settings_hold_here_too(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.evaluate(
        "window.Playground.choose({prompt: 'One\\ntwo', temperature: 0.7, top_p: 0.9, seed: 5, acceptor: 'exact'})"
    )
    expect(page.locator("#prompt textarea")).to_have_value("One\ntwo")
    page.get_by_role("tab", name="Tune k").click()
    expect(page.locator("#tune-prompts textarea")).to_have_value("One two")
    expect(page.locator("#tune-temperature input[type=number]")).to_have_value("0.7")
    expect(page.locator("#tune-rest")).to_have_text("All else as in the Playground: top_p 0.9, seed 5, acceptor exact.")
    open_tab(page, 16)
    for k in (2, 3, 5, 8):
        page.locator("#tune-ks").get_by_label(str(k), exact=True).uncheck()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.locator("#tune-start").click()
    expect(page.locator("#tune-words tbody tr")).to_have_count(1)
    joined = next(each for each in asked if "One two" in each)
    assert '"exact"' in joined
    assert "0.9" in joined
    # what was changed here stays, as long as it is not changed there
    page.locator("#tune-prompts textarea").fill("Mine")
    page.get_by_role("tab", name="Playground").click()
    page.get_by_role("tab", name="Tune k").click()
    expect(page.locator("#tune-prompts textarea")).to_have_value("Mine")
