"""A race one can see: the replay after a run, its label and its figures, and the steps inside a window."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from app.record import metrics, trace
from tests.e2e.conftest import Open
from tests.e2e.driving import figure, finish, more, start

SIZE = {"width": 1280, "height": 800}
NOTED = """() => {
    const { store } = window.Playground;
    window.noted = [];
    store.on("time", () => window.noted.push([store.time, performance.now()]));
}"""


def moving(open_page: Open, address: str) -> Page:
    return open_page(address, viewport=SIZE, reduced_motion="no-preference")


def in_view(page: Page, selector: str) -> bool:
    script = """(selector) => {
        const box = document.querySelector(selector).getBoundingClientRect();
        return box.top >= 0 && box.bottom <= innerHeight && box.height > 0;
    }"""
    return bool(page.evaluate(script, selector))


def test_a_run_is_seen_again_in_about_eight_seconds_with_an_honest_label(open_page: Open, address: str) -> None:
    page = moving(open_page, address)
    page.evaluate(NOTED)
    start(page, 40)
    page.wait_for_function("window.Playground?.store?.playing")
    speed = page.evaluate("window.Playground.store.speed")
    duration = page.evaluate("window.Playground.store.run.duration")
    assert 8 * speed == duration
    expect(page.locator(".race-slow")).to_have_text(re.compile(r"^slow motion, (1/\d+|\d+%) of true speed$"))
    figures = [figure(page, name) for name in ("speedup", "target.tpot_s", "speculative.passes")]
    page.wait_for_function("window.Playground?.store?.playing === false && window.Playground?.store?.time === Infinity")
    expect(page.locator(".race-slow")).to_be_hidden()
    assert figures == [figure(page, name) for name in ("speedup", "target.tpot_s", "speculative.passes")]
    times = [time for time, _ in page.evaluate("window.noted")]
    played = [time for time in times if time != float("inf")]
    assert played == sorted(played)
    assert len(played) > 10, "it is seen move"


def test_the_switch_and_the_system_turn_it_off(open_page: Open, address: str) -> None:
    page = moving(open_page, address)
    assert page.evaluate("window.Playground.store.slowMotion") is True
    start(page, 8)
    page.wait_for_function("window.Playground?.store?.playing")
    page.get_by_label("after each run").uncheck()
    start(page, 12)
    finish(page)
    assert page.evaluate("window.Playground.store.playing") is False
    page.reload()
    page.locator(".pg-view").wait_for()
    assert page.evaluate("window.Playground.store.slowMotion") is False
    still = open_page(address, reduced_motion="reduce")
    assert still.evaluate("window.Playground.store.slowMotion") is False


def test_headline_race_plot_and_panes_are_in_view_together(open_page: Open, slow_address: str, address: str) -> None:
    page = open_page(slow_address, viewport=SIZE)
    more(page)
    page.locator("#max input[type=number]").fill("2000")
    page.locator("#more-button").click()
    page.locator("#run").click()
    expect(page.locator(".pane-speculative .tok").nth(4)).to_be_visible()
    for part in (".message", ".heroes", ".race", ".plot-area", ".panes"):
        assert in_view(page, part), f"{part} while a run is on"
    page.locator("#stop").click()
    finish(page)
    for part in (".message", ".heroes", ".race", ".plot-area", ".panes"):
        assert in_view(page, part), f"{part} after it"


def test_a_step_stops_inside_a_window(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 60)
    rounds = trace.rounds(finish(page), "speculative")
    refused = next(r for r in rounds if [d.state for d in r.drafted] == ["accepted", "rejected"])
    begin = "(index) => { const { store } = Playground; store.seek(store.run.arms.speculative.rounds[index].since); }"
    page.evaluate(begin, refused.index)
    step = page.get_by_role("button", name="step ›")
    proposed, judged = page.locator(".tok.proposed"), page.locator(".tok.proposed.judged")
    borders = "(elements) => elements.map((element) => getComputedStyle(element).borderTopStyle)"
    seen: list[list[str]] = []
    # the other arm's passes that end meanwhile are steps too
    while judged.count() == 0:
        assert page.evaluate("window.Playground.store.window.round.index") == refused.index
        seen.append(proposed.evaluate_all(borders))
        step.click()
    assert seen[-1] == ["dotted", "dotted"], "all drafts stand before the first verdict falls"
    expect(judged).to_have_count(1)
    mark = "(element) => getComputedStyle(element, '::after').content"
    assert judged.first.evaluate(mark) == '"✓"'
    step.click()
    expect(judged).to_have_count(2)
    assert judged.nth(1).evaluate(mark) == '"✕"'
    step.click()
    expect(proposed).to_have_count(0)
    shown = page.evaluate(
        "document.querySelectorAll('.pane-speculative .tok:not(.ahead):not(.k-rejected):not(.k-discarded)').length"
    )
    assert shown == sum(len(round_.token_ids) for round_ in rounds[: refused.index + 1])
    page.get_by_role("button", name="‹ step").click()
    expect(judged).to_have_count(2)


def test_one_arm_and_a_slower_run_say_so(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.get_by_role("button", name="More").click()
    page.get_by_role("radio", name="target only").check()
    start(page, 12)
    summary = metrics.summary(finish(page))
    expect(page.locator(".message")).to_contain_text(f"{summary['arms']['target']['tokens']} tokens in")
    expect(page.locator(".message")).to_contain_text("run both arms to compare")
