"""Runs after their end: replayed, kept over a refresh, exported, imported, recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.record import metrics, trace
from app.record.metrics import Metrics
from app.record.trace import Round
from app.ui.assets import REPLAYS
from app.ui.live import SLOTS
from tests.e2e.conftest import Open, Serve
from tests.e2e.driving import FINISHED, figure, finish, lead, pane_text, shown_trace, start
from tests.support.pages import toy_session

LONG_ANSWER = (Path(__file__).parent / "long_answer.js").read_text(encoding="utf-8")
STATES = """() => {
    const { store } = window.Playground;
    window.states = [];
    store.on("time state", () => window.states.push({ live: store.live, playing: store.playing, time: store.time }));
}"""
# a busy browser may pass over the whole of a short replay between two looks at it
PAUSE_WITHIN = """() => {
    const { store } = window.Playground;
    store.on("time", () => store.playing && store.time > 0 && store.time < Infinity && store.pause());
}"""


@pytest.mark.parametrize("away", [3 * SLOTS, 10**6], ids=["for a while", "until the end"])
def test_a_browser_that_was_away_asks_for_what_it_missed(open_page: Open, address: str, away: int) -> None:
    """A tab in the background may miss more updates than the component's value holds; nothing of the run is lost."""
    page = open_page(address)
    # away by updates, not by seconds: how many come in a second is the machine's affair
    page.evaluate(
        """(away) => {
            const { store } = window.Playground;
            const receive = store.receive.bind(store);
            const seq = (slots) => Math.max(...slots.filter(Boolean).map((slot) => JSON.parse(slot).seq));
            const ended = (slots) => slots.some((slot) => slot.includes("run_finished"));
            store.receive = (slots, missed) =>
                seq(slots) >= away || ended(slots) ? receive(slots, missed) : null;
        }""",
        away,
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    start(page, 600)
    events = finish(page)
    assert any('"missed"' in each for each in asked)
    target = metrics.summary(events)["arms"]["target"]
    assert target["tokens"] == 600
    expect(page.locator(".message")).to_contain_text("The same 600 tokens, word for word")
    assert pane_text(page, "target") == target["text"]


def test_refresh_during_a_run_frees_the_device_and_offers_the_trace_back(open_page: Open, slow_address: str) -> None:
    page = open_page(slow_address)
    start(page, 2000)
    page.wait_for_function("window.Playground?.view?.kept > 8")
    page.reload()
    last = page.get_by_role("button", name="your last run")
    last.click()
    expect(page.locator(".message")).to_contain_text("Stopped early")
    assert len(metrics.summary(shown_trace(page))["arms"]["target"]["token_ids"]) >= 1
    start(page, 4)
    assert metrics.summary(finish(page))["reason"] in ("length", "stop")


def test_finished_trace_survives_a_refresh(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 24)
    events = finish(page)
    page.wait_for_function("window.Playground.view.kept === window.Playground.store.run.lines.length")
    page.reload()
    page.get_by_role("button", name="your last run").click()
    page.wait_for_function(FINISHED)
    assert shown_trace(page) == events


def test_replay_steps_and_plays_by_the_arms_clocks(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 40)
    events = finish(page)
    slider = page.get_by_label("Moment shown")
    slider.evaluate("(input) => { input.value = 0; input.dispatchEvent(new Event('input')) }")
    visible = (
        "(arm) => document.querySelectorAll(`.pane-${arm} .tok:not(.ahead):not(.k-rejected):not(.k-discarded)`).length"
    )
    assert page.evaluate(visible, "target") == 0
    clocks = sorted({clock for arm in Metrics(events).arms.values() for clock in arm.arrivals})
    for moment in clocks[:5]:
        page.evaluate(
            """(moment) => {
            const { store } = window.Playground;
            const step = [...document.querySelectorAll(".race button")].find((each) => each.textContent === "step ›");
            do step.click(); while (store.time < moment - 1e-9);  // a window's verdicts are steps too
        }""",
            moment,
        )
        for name, arm in Metrics(events).arms.items():
            assert page.evaluate(visible, name) == sum(clock <= moment + 1e-9 for clock in arm.arrivals)
    page.get_by_label("Speed of the replay").select_option(label="true speed")
    page.get_by_role("button", name="Replay").click()
    page.wait_for_function("window.Playground?.store?.playing === false && window.Playground?.store?.time === Infinity")
    assert page.evaluate(visible, "target") == len(Metrics(events).arms["target"].token_ids)


def test_exported_page_opens_as_a_file_and_the_trace_imports_again(
    open_page: Open, address: str, downloads: Path
) -> None:
    page = open_page(address)
    start(page, 128)
    events = finish(page)
    posted: list[int] = []
    # not what is asked beside it, such as the instruments' pictures of the run
    page.on(
        "request",
        lambda request: (
            posted.append(len(request.post_data or ""))
            if re.search('"(page_of|open_trace)"', request.post_data or "")
            else None
        ),
    )
    with page.expect_download() as saving:
        page.get_by_role("button", name="Page (HTML)").click()
    assert 0 < max(posted) < 2000, "a proxy that lets little through lets an export through"
    exported = downloads / "run.html"
    saving.value.save_as(exported)
    file = open_page(exported.as_uri())
    assert shown_trace(file) == events
    assert pane_text(file, "speculative") == metrics.summary(events)["arms"]["speculative"]["text"]
    rounds = [event for event in events if isinstance(event, Round) and event.arm == "speculative"]
    expect(file.locator(".round-list .round")).to_have_count(len(rounds))
    expect(file.locator(".rounds-empty")).to_be_hidden()
    file.get_by_role("button", name="step ›").click()

    with page.expect_download() as saving:
        page.get_by_role("button", name="Trace (JSONL)").click()
    lines = downloads / "run.jsonl"
    saving.value.save_as(lines)
    assert trace.read(lines.read_text(encoding="ascii").splitlines()) == events
    page.reload()
    posted.clear()
    page.get_by_label("Open a trace file").set_input_files(lines)
    page.wait_for_function(FINISHED)
    assert shown_trace(page) == events
    assert 0 < max(posted) < lines.stat().st_size / 2, "it is sent packed"

    broken = downloads / "broken.jsonl"
    broken.write_text("no trace\n", encoding="ascii")
    page.get_by_label("Open a trace file").set_input_files(broken)
    expect(page.locator(".message")).to_contain_text("broken.jsonl: no trace of this playground")
    expect(page.locator(".message")).to_contain_text("Below is the earlier run.")


def test_trace_replays_without_a_model(open_page: Open, address: str, serve: Serve) -> None:
    page = open_page(address)
    start(page, 16)
    events = finish(page)
    replaying = serve(None, replay=events)
    page = open_page(replaying)
    page.wait_for_function(FINISHED)
    assert shown_trace(page) == events
    assert page.locator("#run").count() == 0
    page.get_by_role("button", name="Replay").click()
    page.wait_for_function("window.Playground?.store?.playing === false")


@pytest.mark.parametrize("path", sorted(REPLAYS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_runs_are_offered_and_replay(open_page: Open, replay_address: str, path: Path) -> None:
    events = trace.read(path.read_text(encoding="ascii").splitlines())
    summary = metrics.summary(events)
    page = open_page(replay_address)
    page.get_by_label("Recorded runs").select_option(value=path.stem)
    page.wait_for_function(FINISHED)
    assert shown_trace(page) == events
    for arm in ("target", "speculative"):
        assert pane_text(page, arm) == summary["arms"][arm]["text"]
    lossless = summary["total_variation"] < 1e-6
    assert (figure(page, "distance") == "yes, exactly") == lossless
    promise = "lossless" if lossless else "lossy"
    expect(page.locator(".pane-speculative .promise")).to_contain_text(promise)
    expect(page.locator(".headline .promise")).to_have_text(promise)
    agreed = summary["first_divergence"]
    expect(page.locator(".message")).to_contain_text(
        "word for word" if agreed is None else f"part at token {agreed + 1}"
    )
    expect(page.locator(".tok.diverged")).to_have_count(0 if agreed is None else 2)
    page.evaluate(PAUSE_WITHIN)
    page.get_by_role("button", name="Replay").click()
    page.wait_for_function("window.Playground?.store?.playing === false && window.Playground?.store?.time < Infinity")
    expect(page.locator(".race-lead")).to_have_text(lead(events, page.evaluate("window.Playground.store.time")))
    clock = min(arm.arrivals[0] for arm in Metrics(events).arms.values())
    for moment in (0, clock * 0.9, clock):
        page.evaluate("(time) => window.Playground.store.seek(time)", moment)
        expect(page.locator(".race-lead")).to_have_text(lead(events, moment))


def test_arms_that_ran_one_after_the_other_are_replayed_together(open_page: Open, serve: Serve) -> None:
    address = serve(toy_session(agreement="good", max_sequences=1, delay=0.004))
    page = open_page(address, reduced_motion="no-preference")
    page.evaluate("window.Playground.store.speed = 1")
    # noted as they come: the replay is over sooner than a busy browser looks again
    page.evaluate(STATES)
    start(page, 24)
    page.wait_for_function("window.states.at(-1)?.time === Infinity && window.states.some((state) => state.playing)")
    states = page.evaluate("window.states.filter((state) => state.playing)")
    assert states[0] == {"live": False, "playing": True, "time": 0}


def test_an_update_of_a_long_answer_touches_what_is_new(open_page: Open, address: str) -> None:
    """However long the answer, an update costs what it adds: no earlier token is drawn again, made anew or changed."""
    page = open_page(address)
    long, short = page.evaluate(LONG_ANSWER, 800), page.evaluate(LONG_ANSWER, 100)
    assert min(long["tokens"]) > 800 > 300 > min(short["tokens"]) > 100
    for played in ("live", "replayed"):
        assert long[played]["removed"] == 0
        assert 0 < long[played]["changed"] <= 1.5 * short[played]["changed"], played
    assert 0 < long["live"]["added"] <= 1.5 * short["live"]["added"]
