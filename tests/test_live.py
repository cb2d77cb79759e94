"""A run on its way to the page: coalescing, the ring, its place in line, stopping, faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Iterable
from typing import Any

import pytest

from app.errors import RequestError
from app.record import metrics
from app.record.trace import Event, Request, Round, TokenTexts, loads
from app.ui.desk import Desk, Limits, Visitor
from app.ui.live import SLOTS, Recent, Updates, stream
from tests.support.traces import trace as both_arms
from tests.support.waiting import finished


class Recorded:
    """The events of a trace, and whether their generator was closed."""

    def __init__(self, events: list[Event], fault: Exception | None = None) -> None:
        self.events, self.fault, self.closed, self.given = events, fault, False, 0

    def __call__(self) -> Generator[Event, None, None]:
        try:
            for event in self.events:
                self.given += 1
                yield event
            if self.fault:
                raise self.fault
        finally:
            self.closed = True


def seen(values: Iterable[list[str]]) -> list[list[dict[str, Any]]]:
    """The items of each update, read as the browser does: every slot once, in order."""
    updates, last = [], -1
    for value in values:
        slots = sorted((json.loads(slot) for slot in value if slot), key=lambda slot: int(slot["seq"]))
        for slot in slots:
            if slot["seq"] > last:
                assert slot["seq"] == last + 1, "an update was lost"
                last = slot["seq"]
                updates.append(slot["items"])
    return updates


def streamed(source: Any, desk: Desk, stop: asyncio.Event, interval: float = 0.0) -> Any:
    return stream(Updates("r"), source, desk, Visitor(), stop, interval, 0.0)


def run(source: Any, interval: float = 0.0, desk: Desk | None = None) -> list[list[dict[str, Any]]]:
    async def collected() -> list[list[str]]:
        return [value async for value in streamed(source, desk or Desk(), asyncio.Event(), interval)]

    return seen(finished(collected()))


def test_every_event_arrives_once_and_in_order() -> None:
    updates = run(Recorded(both_arms()))
    assert [loads(item["line"]) for items in updates for item in items] == both_arms()
    assert len(updates) == sum(not isinstance(event, TokenTexts) for event in both_arms())


def test_texts_come_with_their_round() -> None:
    for items in run(Recorded(both_arms())):
        assert [isinstance(loads(item["line"]), TokenTexts) for item in items] in ([False], [True, False])


def test_updates_are_coalesced_but_for_the_first_token() -> None:
    updates = run(Recorded(both_arms()), interval=3600)
    assert len(updates) == 3, "that it begins, its first round, and the rest at the end"
    assert isinstance(loads(updates[1][-1]["line"]), Round)
    assert [loads(item["line"]) for items in updates for item in items] == both_arms()


def test_an_update_rewrites_one_slot_whatever_the_length() -> None:
    updates = Updates("r")
    before = updates.same()
    for count in range(3 * SLOTS):
        now = updates.value([{"n": count}])
        assert sum(old != new for old, new in zip(before, now, strict=True)) == 1
        assert len(now) == SLOTS
        before = now


def test_a_browser_that_missed_updates_is_given_them_again() -> None:
    recent = Recent()
    with recent.run("r") as updates:
        made = [value for count in range(3 * SLOTS) for value in updates.value([{"n": count}])]
    assert [json.loads(slot)["items"][0]["n"] for slot in recent.since("r", 2)] == list(range(2, 3 * SLOTS))
    assert set(recent.since("r", 0)) == set(made) - {""}
    assert recent.since("r", 3 * SLOTS) == []


def test_runs_under_way_and_the_last_ones_are_kept_and_nonsense_is_refused() -> None:
    recent = Recent(size=2)
    with recent.run("long") as updates:
        updates.value([])
        for run_id in ("a", "b", "c"):
            with recent.run(run_id) as others:
                others.value([])
        assert len(recent.since("long", 0)) == len(recent.since("c", 0)) == len(recent.since("b", -5)) == 1
        nonsense: list[tuple[Any, Any]] = [("a", 0), ("nobody", 0), (None, 0), (["c"], 0), ("c", "0"), ("c", None)]
        for asked, seq in nonsense:
            with pytest.raises(RequestError, match="run it again"):
                recent.since(asked, seq)
    assert len(recent.since("long", 0)) == 1


def test_stop_ends_the_trace_in_good_order() -> None:
    source = Recorded(both_arms())

    async def stopped() -> list[list[str]]:
        stop = asyncio.Event()
        values = streamed(source, Desk(), stop)
        first = [await anext(values) for _ in range(2)]  # that it begins; texts and their round
        stop.set()
        return first + [value async for value in values]

    events = [loads(item["line"]) for items in seen(finished(stopped())) for item in items]
    assert source.closed
    assert source.given == 3, "not one round more than the one under way"
    assert events[:3] == both_arms()[:3]
    assert metrics.summary(events)["reason"] == "cancelled"


def test_closing_the_stream_closes_the_run_and_leaves_the_line() -> None:
    source = Recorded(both_arms())

    async def left() -> None:
        desk = Desk()
        values = streamed(source, desk, asyncio.Event())
        await anext(values)
        await values.aclose()
        assert source.closed
        assert desk.line.running == desk.line.waiting == 0

    finished(left())


def test_a_run_takes_as_long_as_a_run_may_at_most() -> None:
    source = Recorded(both_arms())
    events = [loads(item["line"]) for items in run(source, desk=Desk(limits=Limits(seconds=0.0))) for item in items]
    assert source.closed
    assert source.given == 1
    assert events[-1].message.endswith("ask for fewer tokens.")  # type: ignore[union-attr]
    assert metrics.summary(events)["reason"] == "cancelled"


def test_more_tokens_than_a_run_may_have_are_refused() -> None:
    assert Limits(max_tokens=8).checked(Request(max_tokens=8)).max_tokens == 8
    assert Limits().checked(Request(max_tokens=4096)).max_tokens == 4096
    with pytest.raises(RequestError, match="8 tokens a run at most, not 9"):
        Limits(max_tokens=8).checked(Request(max_tokens=9))


def test_refused_request_is_a_sentence() -> None:
    updates = run(Recorded([], RequestError("The prompt is empty; type something.")))
    assert updates == [[{"error": "The prompt is empty; type something."}]]


def test_fault_inside_shows_no_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    (items,) = run(Recorded([], ZeroDivisionError("secret path")))
    assert "secret" not in items[0]["error"]
    assert "secret path" in caplog.text


def test_second_in_line_is_told_its_place_and_then_runs() -> None:
    first, second = Recorded(both_arms()), Recorded(both_arms())

    async def both() -> list[list[str]]:
        desk = Desk()
        running = streamed(first, desk, asyncio.Event())
        await anext(running)
        waiting = streamed(second, desk, asyncio.Event())
        told = await anext(waiting)
        assert seen([told]) == [[{"waiting": 1}]]
        assert second.given == 0
        assert [value async for value in running]
        return [told] + [value async for value in waiting]

    rest = seen(finished(both()))
    assert [loads(item["line"]) for items in rest[1:] for item in items] == both_arms()


def test_stop_while_waiting_gives_up_the_place() -> None:
    second = Recorded(both_arms())

    async def stopped() -> list[list[str]]:
        desk, stop = Desk(), asyncio.Event()
        async with desk.line.ticket():
            waiting = streamed(second, desk, stop)
            first = await anext(waiting)
            stop.set()
            return [first] + [value async for value in waiting]

    assert seen(finished(stopped()))[-1] == [{"error": "Stopped before its turn came."}]
    assert second.given == 0


def test_a_run_stopped_before_it_began_makes_nothing() -> None:
    source = Recorded(both_arms())

    async def stopped() -> list[list[str]]:
        stop = asyncio.Event()
        stop.set()
        return [value async for value in streamed(source, Desk(), stop)]

    assert seen(finished(stopped())) == [[{"error": "Stopped before its turn came."}]]
    assert source.given == 0
