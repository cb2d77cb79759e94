"""The line before the device: order, bounds, no thread held by those who wait; readers; stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from app.errors import RequestError
from app.ui.desk import Desk, Visitor
from app.ui.line import Line, Place
from app.ui.readers import Readers
from app.ui.stops import Stops
from tests.support.waiting import finished


def test_first_come_first_served_and_waiting_holds_no_thread() -> None:
    async def scenario() -> list[int]:
        line, order = Line(), list[int]()
        threads = set(threading.enumerate())

        async def one(number: int) -> None:
            async with line.turn():
                order.append(number)
                await asyncio.sleep(0)

        async with line.ticket():
            waiting = [asyncio.ensure_future(one(number)) for number in range(200)]
            await asyncio.sleep(0)
            assert (line.running, line.waiting) == (1, 200)
            assert not set(threading.enumerate()) - threads
            assert not order
        await asyncio.gather(*waiting)
        assert (line.running, line.waiting) == (0, 0)
        return order

    assert finished(scenario()) == list(range(200))


def test_the_line_is_bounded_and_so_is_each_client() -> None:
    async def scenario() -> None:
        line = Line(length=3, of_a_client=2)
        async with line.ticket("a"), line.ticket("a"):
            with pytest.raises(RequestError, match="2 runs of yours"):
                async with line.ticket("a"):
                    pass
            async with line.ticket("b"), line.ticket("c"):
                with pytest.raises(RequestError, match="3 runs are waiting already"):
                    async with line.ticket("d"):
                        pass
        async with line.ticket("a"):
            assert line.running == 1

    finished(scenario())


def test_several_engines_have_several_at_once() -> None:
    async def scenario() -> None:
        line = Line(engines=2)
        async with line.ticket() as first, line.ticket() as second, line.ticket() as third:
            assert first.turn.is_set()
            assert second.turn.is_set()
            assert not third.turn.is_set()
            assert line.place(third) == Place(1, None)

    finished(scenario())


def test_a_wait_is_estimated_from_the_turns_before() -> None:
    async def scenario() -> None:
        line = Line()
        for _ in range(3):
            async with line.turn():
                await asyncio.sleep(0.01)
        async with line.ticket(), line.ticket() as second, line.ticket() as third:
            one, two = line.place(second), line.place(third)
            assert (one.ahead, two.ahead) == (1, 2)
            assert one.seconds is not None
            assert two.seconds == pytest.approx(2 * one.seconds)
            assert one.seconds >= 0.01

    finished(scenario())


def test_what_is_pumped_is_made_in_the_engines_thread_and_closed_after_the_step_under_way() -> None:
    made, closed = list[str](), threading.Event()
    entered, release = threading.Event(), threading.Event()

    def numbers() -> Generator[int, None, None]:
        try:
            made.append(threading.current_thread().name)
            yield 1
            entered.set()
            release.wait()
            yield 2
        finally:
            closed.set()

    async def scenario() -> None:
        line = Line(engines=2)
        pumped = line.pumped(numbers)
        assert await anext(pumped) == 1
        step = asyncio.ensure_future(anext(pumped))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        step.cancel()
        await asyncio.sleep(0)
        assert not closed.is_set(), "it is not closed while it executes"
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert closed.is_set()

    finished(scenario())
    assert all(name.startswith("engine") for name in made)


def test_an_error_of_what_is_pumped_arrives() -> None:
    def broken() -> Generator[int, None, None]:
        yield 1
        raise RequestError("No.")

    async def scenario() -> None:
        pumped = Line().pumped(broken)
        assert await anext(pumped) == 1
        with pytest.raises(RequestError, match="No"):
            await anext(pumped)

    finished(scenario())


def test_a_run_that_nobody_reads_is_given_up() -> None:
    async def scenario() -> None:
        readers, stop = Readers(), asyncio.Event()
        with readers.reading("page"):
            async with readers.watched(("page", "call"), stop, patience=0.02):
                await asyncio.sleep(0.1)
                assert not stop.is_set()
        async with readers.watched(("page", "call"), stop, patience=0.02):
            await asyncio.wait_for(stop.wait(), 60)

    finished(scenario())


def test_a_stop_that_comes_before_its_run_is_kept_and_is_its_owners_alone() -> None:
    async def scenario() -> None:
        stops = Stops(remembered=2)
        stops.stop("page", "early")
        with stops.run("page", "early") as stop:
            assert stop.is_set()
        with stops.run("page", "early") as stop:
            assert not stop.is_set(), "it was for one run"
            stops.stop("another page", "early")
            assert not stop.is_set()
            stops.stop("page", "early")
            assert stop.is_set()
        for number in range(5):
            stops.stop("page", str(number))
        with stops.run("page", "0") as forgotten, stops.run("page", "4") as kept:
            assert not forgotten.is_set()
            assert kept.is_set()

    finished(scenario())


def test_who_finds_no_room_is_counted() -> None:
    async def scenario() -> None:
        desk = Desk(Line(length=0))
        async with desk.ticket(Visitor(), asyncio.Event()):
            with pytest.raises(RequestError, match="waiting already"):
                async with desk.ticket(Visitor(), asyncio.Event()):
                    pass
        assert b'playground_refused_total{by="line"} 1.0' in desk.figures.text()

    finished(scenario())
