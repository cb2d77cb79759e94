"""The Instruments tab as a person uses it, on toys: pictures of the run, runs pinned and read side by side."""

from __future__ import annotations

import csv
import io

import pytest
from playwright.sync_api import Page, expect

from app.record import calibrate, card_of, compare, nothing_kept
from app.record.trace import Round, Trace
from tests.e2e.conftest import Open
from tests.e2e.driving import finish, more, start

RECORDED = {"1-greedy": "How do I make", "2-coins": "Describe a walk"}


def run(page: Page, k: int, max_tokens: int = 40) -> Trace:
    page.get_by_role("tab", name="Playground").click()
    more(page)
    page.locator("#k input[type=number]").fill(str(k))
    start(page, max_tokens, "Tell me of rivers.")
    return finish(page)


def test_calibration_is_that_of_the_trace_and_can_be_taken_away(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    trace = run(page, 4)
    page.get_by_role("tab", name="Instruments").click()
    drawn = page.locator("#instruments-view section.plot", has_text="as sure as it is right")
    expect(drawn.locator(".scatterlayer .trace")).to_have_count(2)
    with page.expect_download() as download:
        drawn.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    shown = [(float(row["x"]), float(row["y"])) for row in rows if row["series"] == "kept"]
    bins = calibrate(trace)
    assert len(shown) == len(bins) > 1
    for point, part in zip(shown, bins, strict=True):
        assert point == pytest.approx((part.confidence, part.acceptance))
    expect(page.locator(".instrument-advice li").first).to_contain_text("on this text")


def test_two_pinned_runs_say_what_differs_and_outlive_a_refresh(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    first, second = run(page, 3), run(page, 5)
    page.get_by_role("tab", name="Instruments").click()
    entries = page.locator(".instrument-runs li")
    expect(entries).to_have_count(2)
    page.reload()  # the address keeps the tab
    expect(entries).to_have_count(2)
    for place in (1, 0):  # newest first, so the older run is what the other is held against
        entries.nth(place).get_by_role("checkbox").check()
    settings = page.get_by_role("region", name="Settings that differ").locator("tbody tr")
    expect(settings).to_have_count(1)
    expect(settings).to_have_text("k35")
    comparison = compare([card_of(first), card_of(second)])
    passes = next(figure for figure in comparison.figures if figure.name == "passes")
    row = page.get_by_role("region", name="Figures").locator("tbody tr", has_text="passes")
    before, after = (f"{value:.0f}" for value in passes.values if value is not None)
    expect(row.locator("td").nth(0)).to_have_text(before)
    expect(row.locator("td").nth(1)).to_contain_text(after)
    expect(page.locator(".instrument-parting h3")).to_have_text("Runs 1 and 2 wrote the same text")
    expect(page.locator(".instrument-comparison .plot")).to_have_count(2)
    entries.nth(1).get_by_role("button", name="run again with").click()
    expect(page.locator("#k input[type=number]")).to_have_value("3")


def test_a_correction_shows_the_refused_draft_and_what_the_acceptor_went_by(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    more(page)
    page.evaluate("window.Playground.choose({acceptor: 'coupled', temperature: 1, k: 4})")
    expect(page.locator("#k input[type=number]")).to_have_value("4")
    start(page, 60)
    trace = finish(page)
    corrected = page.locator(".pane-speculative .tok.k-corrected").first
    corrected.click()
    refused = next(r for r in trace if isinstance(r, Round) and r.final and r.final.provenance == "corrected")
    draft = refused.drafted[len(refused.accepted)]
    card = page.locator(".pg-card")
    expect(card.locator("[data-figure=refused]")).to_contain_text("was refused: p")
    assert draft.grounds is not None
    page.locator(".pane-speculative .tok.k-accepted").first.click()
    expect(card.locator("[data-figure=grounds]")).to_contain_text("log p + noise")
    expect(card.locator("[data-figure=plain]")).to_contain_text("Before the warp: target")


def test_arrows_walk_with_the_card_beside_the_panes(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    start(page, 60)
    finish(page)
    tokens = page.locator(".pane-speculative .tok")
    tokens.nth(1).click()
    card = page.locator(".panes .pg-card.pinned")
    place, pane = card.bounding_box(), page.locator(".pane-speculative").bounding_box()
    assert place is not None
    assert pane is not None
    assert place["x"] >= pane["x"] + pane["width"], "beside, and not over what is read"
    for index in (2, 3):
        page.keyboard.press("ArrowRight")
        expect(tokens.nth(index)).to_be_focused()
        label = tokens.nth(index).get_attribute("aria-label")
        assert label is not None
        expect(card.locator(".card-token")).to_have_text(label.rsplit(", ", 1)[0])
    page.locator(".race button").first.focus()
    expect(card).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".pg-card")).to_be_hidden()
    assert page.locator(".panes .pg-card").count() == 0
    # the panes have moved below the pointer: only what it moves to is pointed at
    page.mouse.move(0, 0)
    tokens.nth(4).hover()
    expect(page.locator(".pg-card")).to_be_visible()


def test_rounds_with_nothing_kept_are_seen_alone(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 1280, "height": 900})
    trace = run(page, 4, 60)
    page.get_by_role("tab", name="Rounds").click()
    rows = page.locator(".round-list .round:visible")
    expect(rows).to_have_count(
        len([event for event in trace if isinstance(event, Round) and event.arm == "speculative"])
    )
    page.get_by_label("only rounds with nothing kept").check()
    barren = nothing_kept(trace)
    assert barren
    expect(rows).to_have_count(len(barren))
    assert [int(str(row.get_attribute("data-round"))) for row in rows.all()] == barren


def test_recorded_and_opened_runs_are_in_the_list_once(open_page: Open, replay_address: str) -> None:
    page = open_page(replay_address, viewport={"width": 1280, "height": 900})
    for name in ("1-greedy", "2-coins", "1-greedy"):
        page.evaluate("(name) => window.Playground.view.toolbar.recording(name, true)", name)
        page.wait_for_function("window.Playground?.store?.run.finished")
        page.get_by_role("tab", name="Instruments").click()
        expect(page.locator(".instrument-runs li").first).to_contain_text(RECORDED[name])
    expect(page.locator(".instrument-runs li")).to_have_count(2)
