"""A run on its way to the page: coalescing, the ring, the line, stopping, faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from app.errors import RequestError
from app.record import metrics
from app.record.trace import Event, loads
from app.ui.live import SLOTS, Line, Recent, Updates, stream
from tests.support.traces import trace as both_arms


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


def seen(values: Iterator[list[str]]) -> list[list[dict[str, Any]]]:
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


def run(source: Any, interval: float = 0.0, stop: threading.Event | None = None) -> list[list[dict[str, Any]]]:
    return seen(stream(Updates("r"), source, Line(), stop or threading.Event(), interval))


def test_every_event_arrives_once_and_in_order() -> None:
    updates = run(Recorded(both_arms()))
    assert [loads(item["line"]) for items in updates for item in items] == both_arms()
    assert len(updates) == len(both_arms())


def test_updates_are_coalesced() -> None:
    updates = run(Recorded(both_arms()), interval=3600)
    assert len(updates) == 2, "the first at once, the rest at the end"
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
    source, stop = Recorded(both_arms()), threading.Event()
    values = stream(Updates("r"), source, Line(), stop, 0.0)
    collected = [next(values), next(values), next(values)]
    stop.set()
    collected += list(values)
    events = [loads(item["line"]) for items in seen(iter(collected)) for item in items]
    assert source.closed
    assert source.given == 4, "not one round more than the one under way"
    assert events[:4] == both_arms()[:4]
    assert metrics.summary(events)["reason"] == "cancelled"


def test_closing_the_stream_closes_the_run_and_leaves_the_line() -> None:
    source, line = Recorded(both_arms()), Line()
    values = stream(Updates("r"), source, line, threading.Event(), 0.0)
    next(values)
    values.close()  # type: ignore[attr-defined]
    assert source.closed
    with line.turn():
        pass


def test_refused_request_is_a_sentence() -> None:
    updates = run(Recorded([], RequestError("The prompt is empty; type something.")))
    assert updates == [[{"error": "The prompt is empty; type something."}]]


def test_fault_inside_shows_no_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    (items,) = run(Recorded([], ZeroDivisionError("secret path")))
    assert "secret" not in items[0]["error"]
    assert "secret path" in caplog.text


def test_second_in_line_is_told_its_place_and_then_runs() -> None:
    line, first, second = Line(), Recorded(both_arms()), Recorded(both_arms())
    running = stream(Updates("a"), first, line, threading.Event(), 0.0)
    next(running)
    waiting = stream(Updates("b"), second, line, threading.Event(), 0.0)
    told = next(waiting)
    assert seen(iter([told])) == [[{"waiting": 1}]]
    assert second.given == 0
    list(running)
    rest = seen(iter([told, *waiting]))
    assert [loads(item["line"]) for items in rest[1:] for item in items] == both_arms()


def test_stop_while_waiting_gives_up_the_place() -> None:
    line, second, stop = Line(), Recorded(both_arms()), threading.Event()
    with line.ticket():
        waiting = stream(Updates("b"), second, line, stop, 0.0)
        first = next(waiting)
        stop.set()
        updates = seen(iter([first, *waiting]))
    assert updates[-1] == [{"error": "Stopped before its turn came."}]
    assert second.given == 0


def test_line_is_first_come_first_served() -> None:
    line, order = Line(), []
    ready = threading.Barrier(2)

    def wait(name: str) -> None:
        with line.ticket() as ahead:
            ready.wait()
            while ahead(1.0):
                pass
            order.append(name)

    with line.ticket():
        threads = []
        for name in "abc":
            thread = threading.Thread(target=wait, args=(name,))
            thread.start()
            ready.wait()
            threads.append(thread)
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c"]
