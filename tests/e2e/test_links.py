"""The state in the address, what links open, the room's view, and what leaves the page: each as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import expect

from app.__main__ import main
from tests.e2e.conftest import Open
from tests.e2e.driving import FINISHED, finish, start

LINK = "?prompt=Hello&k=5&t=0.3&acceptor=coupled&seed=7&max=20"


def test_a_link_sets_the_knobs_and_runs(open_page: Open, address: str) -> None:
    page = open_page(f"{address}/{LINK}&run=1")
    page.wait_for_function(FINISHED)
    request = page.evaluate("window.Playground.store.run.started.request")
    assert (request["prompt"], request["k"], request["max_tokens"], request["acceptor"]) == ("Hello", 5, 20, "coupled")
    assert (request["sampling"]["temperature"], request["sampling"]["seed"]) == (0.3, 7)
    expect(page.locator(".asked-prompt")).to_have_text("Hello")
    expect(page.locator(".asked-settings")).to_contain_text("acceptor coupled")
    page.reload()
    expect(page.locator("#prompt textarea")).to_have_value("Hello")
    assert "run=1" not in page.url, "a refresh runs nothing by itself"


def test_tabs_are_in_the_history(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.get_by_role("tab", name="About").click()
    page.wait_for_url("**tab=about**")
    page.get_by_role("tab", name="Rounds").click()
    page.go_back()
    expect(page.get_by_role("tab", name="About")).to_have_attribute("aria-selected", "true")
    page.reload()
    expect(page.get_by_role("tab", name="About")).to_have_attribute("aria-selected", "true")


def test_the_room_sees_the_run_alone_and_digits_run_examples(open_page: Open, address: str) -> None:
    page = open_page(f"{address}/?present=1", viewport={"width": 1280, "height": 720})
    expect(page.locator("#controls")).to_be_hidden()
    page.keyboard.press("1")
    page.wait_for_function(FINISHED)
    for part in (".message", ".heroes", ".race", ".panes"):
        box = page.locator(part).bounding_box()
        assert box is not None, part
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= 720, part
    page.keyboard.press("p")
    expect(page.locator("#controls")).to_be_visible()


def test_a_runs_own_settings_are_shown_and_taken_back(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 12, "First")
    finish(page)
    page.locator("#prompt textarea").fill("Second")
    expect(page.locator(".asked-prompt")).to_have_text("First")
    page.locator(".asked summary").click()
    page.get_by_role("button", name="Use these settings").click()
    expect(page.locator("#prompt textarea")).to_have_value("First")


def test_the_site_opens_from_files(open_page: Open, address: str, tmp_path: Path) -> None:
    assert main(["export", "--site", str(tmp_path)]) == 0
    page = open_page(address)
    page.goto((tmp_path / "index.html").as_uri())
    page.locator("a.try").first.click()
    page.wait_for_function(FINISHED)
    expect(page.locator(".message")).to_contain_text("word for word")
    expect(page.locator(".round-list .round").first).to_be_visible()


def test_headline_and_race_leave_as_a_picture(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 24)
    finish(page)
    for name, begins in (("Race (SVG)", b"<svg"), ("Race (PNG)", b"\x89PNG")):
        with page.expect_download() as saving:
            page.get_by_role("button", name=name).click()
        assert saving.value.path().read_bytes().startswith(begins)
    sentence = page.locator(".message").inner_text()
    drawing = page.evaluate("Playground.picture(Playground.store.run, {})")
    assert json.dumps(sentence.split()[0]).strip('"') in drawing
