"""The page as a person uses it, on toy models: every figure shown is held against the trace it stands for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from app.record import metrics
from app.record.definitions import DEFINITIONS
from app.record.trace import Round, RunFinished
from app.ui import palette
from tests.e2e.conftest import HOSTILE, Open, Serve
from tests.e2e.driving import figure, finish, more, pane_text, start
from tests.support import traces


def test_full_run_shows_what_the_trace_says(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 96)
    expect(page.locator(".pane-speculative .k-accepted").first).to_be_visible()
    events = finish(page)
    summary = metrics.summary(events)
    speculative, target = summary["arms"]["speculative"], summary["arms"]["target"]
    for kind, count in speculative["counts"].items():
        expect(page.locator(f'[data-count="{kind}"]')).to_have_text(str(count))
        expect(page.locator(f".pane-speculative .tok.k-{kind}")).to_have_count(count)
    assert speculative["counts"]["accepted"] > 0
    assert speculative["counts"]["rejected"] > 0
    assert pane_text(page, "target") == target["text"]
    assert pane_text(page, "speculative") == speculative["text"]
    assert figure(page, "speedup") == f"{summary['speedup']:.2f}×"
    assert figure(page, "speculative.mean_acceptance_length") == f"{speculative['mean_acceptance_length']:.2f}"
    assert figure(page, "speculative.acceptance_rate").endswith("%")
    assert float(figure(page, "target.tpot_s")) == pytest.approx(1000 * target["tpot_s"], abs=0.051)
    same = (
        f"The same {target['tokens']} tokens, word for word, in {speculative['rounds'] + 1} passes "
        f"instead of {target['rounds'] + 1}"
    )
    expect(page.locator(".message")).to_contain_text(same)
    assert figure(page, "speculative.passes") == str(speculative["rounds"] + 1)
    assert figure(page, "distance") == "yes, exactly"
    expect(page.locator(".pane-speculative .promise")).to_have_text("rejection, lossless")
    page.locator(".plot").scroll_into_view_if_needed()
    drawn = page.locator(".plot-area canvas")
    expect(drawn).to_be_visible()
    inks = drawn.evaluate("""canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const inks = {};
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] === 255) inks[data.slice(at, at + 3)] = (inks[data.slice(at, at + 3)] ?? 0) + 1;
        return inks;
    }""")
    for tint in ("target", "accepted"):  # each arm's line, in its colour
        colour = palette.LIGHT[tint]
        assert inks[",".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))] > 100
    box = drawn.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    expect(page.locator(".plot-read")).to_have_text(re.compile(r"^at \d+ tokens: [\d.]+ → [\d.]+ ms$"))
    with page.expect_download() as saving:
        page.get_by_role("button", name="Plot (PNG)").click()
    assert saving.value.path().read_bytes().startswith(b"\x89PNG")


def test_nothing_is_animated_faster_than_the_text_while_a_run_is_live(
    context: BrowserContext, open_page: Open, slow_address: str
) -> None:
    """Frames cost the engine time where it shares the processor; before and after a run they are as ever, but for
    Gradio's own timers, which go on for nothing."""
    context.add_init_script("""(() => {
        const request = window.requestAnimationFrame.bind(window);
        window.frames = 0;  // all that anything on the page asks for
        window.requestAnimationFrame = (callback) => { window.frames += 1; return request(callback); };
    })()""")
    page = open_page(slow_address)
    count = """([ms, animated]) => new Promise((done) => {
        const before = window.frames;
        let shown = 0;
        let on = animated;
        const again = () => { if (on) { shown += 1; requestAnimationFrame(again); } };
        const id = requestAnimationFrame(() => (shown += 1000));
        cancelAnimationFrame(id);
        requestAnimationFrame(again);
        setTimeout(() => { on = false; done([shown, window.frames - before]); }, ms);
    })"""
    at_rest, _ = page.evaluate(count, [600, True])
    start(page, 2000)
    expect(page.locator(".pane-target .tok").first).to_be_visible()
    live, asked = page.evaluate(count, [1500, True])
    page.locator("#stop").click()
    finish(page)
    assert 0 < live <= 1500 // 250 + 1
    assert live / 1500 < at_rest / 600
    assert at_rest < 1000
    # a slow one is called without a frame: at sixty a second one of them alone would ask for 90
    assert asked <= 1500 // 250
    # the start screen's springs take some seconds to come to rest
    assert any(page.evaluate(count, [1500, False])[1] <= 1500 // 250 for _ in range(4))


def test_token_card_says_where_auto_did_not_draft_and_where_it_ended_a_window(open_page: Open, serve: Serve) -> None:
    ended = "not sure enough to go on"
    alone = "drafting did not look worth its time"
    by_auto = {
        1: traces.speculative_round(1, (traces.drafted(2, "accepted"),), traces.final(3, "bonus")),
        2: traces.speculative_round(2, (), traces.final(4, "target")),
        3: traces.speculative_round(3, (traces.drafted(5, "rejected"),), traces.final(6, "corrected"), "length"),
    }
    # (round, token of the pane, what its card says): the first window was ended, the third is as wide as it was to be
    expected = [(1, 1, ended), (2, 3, alone), (3, 4, None)]
    widths = {1: 6, 2: 1, 3: 2}
    first, *_ = traces.SPECULATIVE
    trace_ = [
        traces.started(k="auto"),
        traces.texts(),
        *traces.target_arm(1, 2, 3, 4, 6),
        first,
        *(replace(round_, k=widths[index], source="draft") for index, round_ in by_auto.items()),
        RunFinished("length"),
    ]
    address = serve(None, replay=trace_)
    page = open_page(address)
    page.get_by_label("show refused").check()
    for index, place, words in expected:
        page.locator(".pane-speculative .tok").nth(place).click()
        text = page.locator(".pg-card .card-where").inner_text()
        assert text.startswith(f"Round {index}")
        assert [each for each in (ended, alone) if each in text] == ([words] if words else [])
        page.keyboard.press("Escape")


@pytest.mark.parametrize("kind", ["accepted", "corrected", "rejected", "bonus"])
def test_token_card_has_the_numbers_of_the_trace(open_page: Open, address: str, kind: str) -> None:
    page = open_page(address)
    page.locator("#temperature input[type=number]").fill("1")
    start(page, 96)
    events = finish(page)
    page.get_by_label("show refused").check()
    page.locator(f".pane-speculative .tok.k-{kind}").first.click()
    card = page.locator(".pg-card")
    expect(card).to_be_visible()
    expect(card.locator(".chip")).to_have_text(kind)
    rounds = [event for event in events if isinstance(event, Round) and event.arm == "speculative"]

    def chance(value: float) -> Any:
        return pytest.approx(value, abs=0.0005)

    if kind in ("accepted", "rejected"):
        token = next(token for round_ in rounds for token in round_.drafted if token.state == kind)
        assert float(card.locator('[data-figure="q"]').inner_text()) == chance(token.q)
        assert token.u is not None
        assert token.threshold is not None
        coin = card.locator(".coin-row").inner_text()
        u, threshold = (float(number) for number in re.findall(r"(?:u = |[<≥] )([\d.]+)", coin))
        assert (u, threshold) == (chance(token.u), chance(token.threshold))
        assert ("kept" if kind == "accepted" else "refused") in coin
        listed = {other.id for other in token.draft_alternatives} | {token.id}
        expect(card.locator(".alts-draft .alt")).to_have_count(len(listed))
        p = token.p
    else:
        last = next(r.final for r in rounds if r.final is not None and r.final.provenance == kind)
        assert (card.get_by_text("residual").count() == 1) == (kind == "corrected")
        p = last.p
    shown = card.locator('[data-figure="p"]').inner_text()
    assert float(shown.replace("e−", "e-")) == chance(p)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_legend_isolates_a_kind(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page)
    finish(page)
    entry = page.locator('[data-kind="corrected"]')
    entry.click()
    expect(entry).to_have_attribute("aria-pressed", "true")
    background = "(element) => getComputedStyle(element).backgroundColor"
    clear = "rgba(0, 0, 0, 0)"
    assert page.locator(".pane-speculative .k-accepted").first.evaluate(background) == clear
    assert page.locator(".pane-speculative .k-corrected").first.evaluate(background) != clear
    entry.click()
    assert page.locator(".pane-speculative .k-accepted").first.evaluate(background) != clear


def test_stop_ends_the_run_in_good_order_and_frees_the_device(open_page: Open, slow_address: str) -> None:
    page = open_page(slow_address)
    start(page, 2000)
    expect(page.locator(".pane-target .tok").nth(3)).to_be_visible()
    page.locator("#stop").click()
    events = finish(page)
    assert metrics.summary(events)["reason"] == "cancelled"
    expect(page.locator(".message")).to_contain_text("Stopped early: so far the same")
    start(page, 4)
    assert metrics.summary(finish(page))["reason"] in ("length", "stop")


def test_second_page_waits_its_turn_and_then_runs(open_page: Open, slow_address: str) -> None:
    first, second = open_page(slow_address), open_page(slow_address)
    start(first, 2000)
    expect(first.locator(".pane-target .tok").first).to_be_visible()
    start(second, 4)
    expect(second.locator(".message")).to_have_text(
        re.compile(r"^1 run ahead of yours(, about \d+ s)?\. Yours starts by itself\.$")
    )
    assert second.locator(".pane-target .tok").count() == 0
    first.locator("#stop").click()
    finish(first)
    assert metrics.summary(finish(second))["arms"]["target"]["tokens"] > 0


def test_rounds_tab_shows_every_round_and_moves_the_panes(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 60)
    events = finish(page)
    rounds = [event for event in events if isinstance(event, Round) and event.arm == "speculative"]
    page.get_by_role("tab", name="Rounds").click()
    rows = page.locator(".round-list .round")
    expect(rows).to_have_count(len(rounds))
    for state in ("accepted", "rejected", "discarded"):
        count = sum(token.state == state for round_ in rounds for token in round_.drafted)
        expect(page.locator(f".round-list .box.k-{state}")).to_have_count(count)
    by_position = metrics.summary(events)["arms"]["speculative"]["acceptance_by_position"]
    expect(page.locator(".panels .panel").first.locator(".bar-row")).to_have_count(len(by_position))
    rows.nth(3).click()
    expect(page.locator(".round-where")).to_have_text(f"round 3 of {len(rounds) - 1}")
    emitted = sum(len(round_.token_ids) for round_ in rounds[:4])
    page.get_by_role("tab", name="Playground").click()
    expect(page.locator(".pane-speculative .pane-figure")).to_contain_text(f"{emitted} tokens")
    page.get_by_role("tab", name="Rounds").click()
    page.get_by_label("Judge again by").select_option(label="exact")
    expect(page.locator(".cut")).to_have_count(sum(bool(round_.drafted) for round_ in rounds))
    expect(page.locator(".rule-text")).to_contain_text(
        f"against {metrics.summary(events)['arms']['speculative']['mean_acceptance_length']:.2f}"
    )
    page.locator(".minimap").click(position={"x": 1, "y": 7})
    expect(page.locator(".round-where")).to_have_text(f"round 0 of {len(rounds) - 1}")


def test_model_text_is_never_markup(open_page: Open, hostile_address: str, downloads: Path) -> None:
    page = open_page(hostile_address)
    start(page, 120, prompt=HOSTILE)
    summary = metrics.summary(finish(page))
    assert HOSTILE in summary["arms"]["target"]["text"]
    assert pane_text(page, "target") == summary["arms"]["target"]["text"]
    assert page.locator(".pg-view img, .pg-view script").count() == 0
    page.get_by_role("tab", name="Rounds").click()
    expect(page.locator(".round-list .round").first).to_be_visible()
    assert page.locator(".pg-rounds img, .pg-rounds script").count() == 0
    page.get_by_role("tab", name="Playground").click()
    page.locator(".pane-speculative .tok").nth(5).click()
    assert page.locator(".pg-card img, .pg-card script").count() == 0
    with page.expect_download() as saving:
        page.get_by_role("button", name="Page (HTML)").click()
    exported = downloads / "hostile.html"
    saving.value.save_as(exported)
    file = open_page(exported.as_uri())
    assert HOSTILE in pane_text(file, "target")
    assert file.locator("main img, main script").count() == 0


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [("  ", "The prompt is empty"), ("long " * 1000, "shorten it so that there is room for an answer")],
)
def test_bad_requests_are_sentences_where_they_arose(
    open_page: Open, hostile_address: str, prompt: str, sentence: str
) -> None:
    page = open_page(hostile_address)
    start(page, 8, prompt=prompt)
    expect(page.locator('.message[data-kind="error"]')).to_contain_text(sentence)
    start(page, 8, prompt="Hello")
    assert metrics.summary(finish(page))["arms"]["target"]["tokens"] > 0


def test_one_arm_alone(open_page: Open, address: str) -> None:
    page = open_page(address)
    more(page)
    page.get_by_role("radio", name="target only").check()
    start(page, 12)
    assert set(metrics.summary(finish(page))["arms"]) == {"target"}
    expect(page.locator(".pane-speculative")).to_have_class(re.compile(r"\boff\b"))
    assert figure(page, "speedup") == "–"
    expect(page.locator('[data-count="target"]')).not_to_have_text("0")


def test_keyboard_reaches_everything(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Shift+Enter")
    finish(page)
    page.locator(".legend-plain input").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.pane-speculative') !== null"), "one Tab for each pane"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    tokens = page.locator(".pane-speculative .tok")
    expect(tokens.nth(1)).to_be_focused()
    expect(page.locator(".pg-card")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".pg-card.pinned")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".pg-card")).to_be_hidden()
    page.locator('[data-kind="accepted"]').focus()
    expect(page.locator(".pg-tip")).to_contain_text(DEFINITIONS["accepted"])
    page.keyboard.press("Enter")
    expect(page.locator('[data-kind="accepted"]')).to_have_attribute("aria-pressed", "true")


def test_tab_goes_through_every_control(open_page: Open, address: str) -> None:
    page = open_page(address)
    start(page, 8)
    finish(page)
    page.locator("#tabs [role=tab]").first.focus()
    name = (
        "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText || "
        "document.activeElement.closest('[aria-label], .block')?.innerText"
    )
    names = []
    for _ in range(90):
        page.keyboard.press("Tab")
        names.append(str(page.evaluate(name)))
    passed = "\n".join(names)
    controls = ["Window k", "Max tokens", "Temperature", "Acceptor", "Run", "More", "accepted"]
    controls += [
        "show refused",
        "Moment shown",
        "Replay",
        "step ›",
        "Speed of the replay",
        "after each run",
        "Trace (JSONL)",
        "Page (HTML)",
        "Plot (PNG)",
    ]
    controls += ["Open a trace file", "Recorded runs"]
    assert [control for control in controls if control not in passed] == []


def test_narrow_screen_needs_no_sideways_scrolling(open_page: Open, address: str) -> None:
    page = open_page(address, viewport={"width": 390, "height": 844}, has_touch=True)
    expect(page.locator("#run")).to_be_in_viewport()
    start(page, 40)
    finish(page)
    tabs = ["Playground", "Rounds", "Tune k", "Instruments", "Hardware", "About"]
    for width, letters in ((390, "0px"), (320, "3px")):  # fonts differ by machine
        page.set_viewport_size({"width": width, "height": 844})
        page.add_style_tag(content=f"#tabs button {{ letter-spacing: {letters} }}")
        assert page.locator("#tabs [role=tab]").all_inner_texts() == tabs
        for tab in tabs:
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    page.get_by_role("tab", name="Playground").click()
    page.locator(".pane-speculative .tok").nth(2).tap()
    box = page.locator(".pg-card").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
