"""The Tune k tab: what a sweep looks like, escaped, the tab's wiring, and its way from click to outputs."""

from __future__ import annotations

import asyncio
import html
import json
import re
from typing import Any

import gradio as gr
import pytest

from app.errors import RequestError, TraceError
from app.record import trace as traces
from app.record.standing import Sweep
from app.record.sweep import Step, sweep
from app.record.theory import PUBLISHED
from app.record.trace import Request
from app.record.variants import Variant, variants
from app.ui import playground, plots, sweep_view, tune
from app.ui.desk import Desk, Visitor
from app.ui.page import build_page
from tests.support.pages import EXAMPLES, toy_session
from tests.support.simulated import SimulatedSession
from tests.support.traces import SPECULATIVE, started, target_arm, texts, trace
from tests.support.waiting import finished
from tests.test_hardware import text


def windows(*ks: int) -> tuple[Variant, ...]:
    return variants(Request(), ks=ks)


@pytest.fixture(scope="module")
def found() -> Sweep:
    session = SimulatedSession(lambda rows: 0.0095 + 0.0005 * rows, 0.001, agreement="good", seed=2)
    *_, last = sweep(session, Request(max_tokens=120), ["abc", "cab"], windows(2, 4, 8), repeats=1)
    return last.sweep


def test_the_best_window_is_named_and_marked(found: Sweep) -> None:
    markup = sweep_view.sweep_html(found)
    assert found.best is not None
    shown = text(markup)
    assert f"{found.best.label} is the best" in shown or "Too close to call" in shown
    assert f"{found.best.speedup:.2f}×" in shown
    assert markup.count('<tr class="best">') == 1
    assert "same text" in shown
    assert "so far" not in shown
    assert "so far" in text(sweep_view.sweep_html(found, over=False))


def test_figures_hold_what_was_measured_and_what_was_predicted(found: Sweep) -> None:
    drawn = plots.sweep_figures(found)
    by_name = {line.name: line for line in drawn["tpot"].data}
    assert list(by_name["measured"].x) == [2, 4, 8]
    assert list(by_name["measured"].y) == pytest.approx([1000 * point.tpot_s for point in found.points])
    assert list(by_name["formula"].y) == pytest.approx([1000 * (point.predicted_tpot_s or 0) for point in found.points])
    assert list(by_name["target alone"].y) == pytest.approx([10] * 3)
    assert list(by_name["what-if from k = 8"].x) == list(range(2, 9))
    assert len({(line.line.dash, line.marker.symbol) for line in by_name.values()}) == 4, "told apart without colour"
    assert [each["title"].split(" ")[0] for each in sweep_view.figures(found)] == ["Time", "Speedup", "Elsewhere:"]
    projected = plots.elsewhere_figure(0.5).data
    assert [line.y[0] for line in projected] == [pair.target_ms for pair in PUBLISHED]


def test_nothing_measured_shows_nothing() -> None:
    empty = Sweep(windows(2, 3))
    assert sweep_view.sweep_html(empty) == ""
    assert sweep_view.figures(empty) == []


def test_a_projection_is_labelled_one() -> None:
    shown = text(sweep_view.elsewhere_html(0.8))
    assert "a projection, not a measurement" in shown
    for pair in PUBLISHED:
        assert f"{pair.target} + {pair.draft}" in shown


def test_what_if_names_the_window_that_would_have_been_best() -> None:
    shown = text(sweep_view.what_if_html(trace()))
    assert "k = 3 would have been better: 6.73 ms a token" in shown
    with pytest.raises(TraceError, match="no speculative arm"):
        sweep_view.what_if_html([started(), texts(), *target_arm(1, 2)])
    assert "only lengths are known" in text(sweep_view.what_if_html([started(), texts(), *SPECULATIVE]))


def test_a_run_is_judged_from_its_lines() -> None:
    assert "tokens a pass" in text(tune.judged("".join(traces.write(trace()))))
    with pytest.raises(RequestError, match="press Run there first"):
        tune.judged("")
    with pytest.raises(TraceError, match="wrong value at Round"):
        tune.judged('{"type": "round"}\n')
    with pytest.raises(TraceError, match="no event of a run"):
        tune.judged("{}")


def test_what_people_typed_is_text() -> None:
    markup = sweep_view.progress_html(Step(0, 2, "k = 2: <script>alert(1)</script>", Sweep(windows(2))))
    assert "<script" not in markup
    assert "<script>alert(1)</script>" in text(markup)
    assert "<script" not in sweep_view.error_html("<script>")


def test_prompts_by_line_by_kind_or_all() -> None:
    examples = [*EXAMPLES, {"category": "chat", "prompt": "Another."}]
    assert tune._prompts(tune.OWN, " one \n\n two", examples) == ["one", "two"]
    assert tune._prompts(tune.EACH, "", examples) == ["Say hello.", "Name three rivers."]
    assert len(tune._prompts(tune.ALL, "", examples)) == 3


def updates(stop: asyncio.Event, prompts: list[str], desk: Desk | None = None) -> Any:
    session = toy_session(agreement="good")
    start = lambda stop: sweep(session, Request(max_tokens=12), prompts, windows(2, 3), repeats=1)  # noqa: E731
    return tune.updates(start, desk or Desk(), Visitor(), stop)


def everything(prompts: list[str]) -> list[Any]:
    async def collected() -> list[Any]:
        return [shown async for shown in updates(asyncio.Event(), prompts)]

    return finished(collected())


def test_outputs_follow_the_sweep_to_its_end() -> None:
    shown = everything(["hello"])
    assert "run 1 of 2" in text(shown[0][0])
    assert "2 runs of both arms" in text(shown[-1][0])
    assert len(shown[-1][2]) == 3


def test_stop_ends_the_sweep_within_a_round_and_keeps_what_was_measured() -> None:
    async def stopped() -> list[Any]:
        stop = asyncio.Event()
        steps = updates(stop, ["hello"] * 50)
        while "run 3 of 100" not in text((await anext(steps))[0]):
            pass
        stop.set()
        return [shown async for shown in steps]

    (last,) = finished(stopped())
    assert "Stopped after 2 of 100 runs" in text(last[0])


def test_a_sweep_that_cannot_work_is_a_sentence_in_place() -> None:
    (shown,) = everything([])
    assert "no prompt to sweep" in text(shown[0])


def test_what_is_best_can_be_used(found: Sweep) -> None:
    markup = sweep_view.sweep_html(found)
    settings = [json.loads(html.unescape(each)) for each in re.findall(r'data-use="([^"]*)"', markup)]
    assert [each["k"] for each in settings] == [2, 4, 8]
    assert settings[0] == {"k": 2, "acceptor": "rejection", "drafter": "draft", "temperature": 0.0, "pair": ""}


def test_temperatures_are_read_as_people_write_them() -> None:
    assert tune._numbers(" 0, 0.7;1 ") == [0.0, 0.7, 1.0]
    assert tune._numbers("") == []
    with pytest.raises(RequestError, match="no list of temperatures"):
        tune._numbers("warm")


def test_acceptors_are_compared_in_a_table_of_their_names() -> None:
    session = toy_session(agreement="good", seed=2)
    offered = variants(Request(), acceptors=["exact", "lenient"])
    *_, last = sweep(session, Request(max_tokens=16), ["hello"], offered)
    shown = text(sweep_view.sweep_html(last.sweep))
    assert "exact" in shown
    assert "lossy" in shown
    assert "What-if" not in shown
    tpot, speedup, _ = sweep_view.figures(last.sweep)
    assert tpot["title"] == "Time per output token"
    (measured,) = [line for line in speedup["figure"]["data"] if line["name"] == "measured"]
    assert (measured["x"], measured["mode"]) == (["exact", "lenient"], "markers")


def test_others_wait_in_line() -> None:
    async def scenario() -> None:
        desk = Desk()
        async with desk.line.turn():
            steps = updates(asyncio.Event(), ["hello"], desk)
            assert "1 ahead of you." in text((await anext(steps))[0])
        assert "run 1 of 2" in text((await anext(steps))[0])
        await steps.aclose()

    finished(scenario())
    assert "1 ahead of you, about 3 s." in text(sweep_view.waiting_html(1, 2.6))


@pytest.mark.parametrize("windows", [None, (2, 4)])
def test_the_tab_builds_offers_the_known_windows_and_opens_no_endpoint(windows: tuple[int, ...] | None) -> None:
    session, desk = toy_session(windows=windows), Desk()
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs():
        with gr.Tab("Playground"):
            knobs = playground.build(session, desk, None)
        with gr.Tab("Tune k") as tab:
            tune.build_sweep(session, desk, tab, knobs, EXAMPLES, "plotly.js")
    (ks,) = [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "tune-ks"]
    assert isinstance(ks, gr.CheckboxGroup)
    assert [value for _, value in ks.choices] == [*map(str, windows or range(2, 17)), "auto"]
    assert page.get_api_info()["named_endpoints"] == {}


def test_without_a_model_only_recorded_runs_are_judged() -> None:
    buttons = [block.value for block in build_page(None).blocks.values() if isinstance(block, gr.Button)]
    assert "Judge the run in the Playground" in buttons
    assert not {"Sweep", "Stop"} & set(buttons)
