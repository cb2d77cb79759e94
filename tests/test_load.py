"""Many at once, on a page that is served: nobody is lost without a sentence, and the page answers throughout."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx
import pytest

from app.bench import calls
from app.engine.session import Session
from app.errors import RequestError
from app.record.trace import Event, Request, RunFinished
from app.ui import readers
from app.ui.line import LENGTH
from tests.support.pages import served, toy_session
from tests.support.waiting import finished

pytestmark = pytest.mark.slow


def run_values(max_tokens: int, prompt: str = "Hi") -> list[Any]:
    return [prompt, 3, max_tokens, 0, 1, 0, 0, "rejection", "draft", "both", "", True]


async def called(http: httpx.AsyncClient, max_tokens: int, session: str | None = None) -> str:
    """The id of a run that was asked for."""
    return await calls.called(http, run_values(max_tokens), session)


async def told(http: httpx.AsyncClient, call: str) -> str:
    """How a run that was asked for ended: what its last event says, or the sentence it was refused with."""
    last: Event | None = None
    try:
        async for event in calls.events(http, call):
            last = event
    except RequestError as refused:
        return str(refused)
    assert isinstance(last, RunFinished)
    return last.reason


async def health(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get("/healthz")
    return dict(answer.json())


async def until(http: httpx.AsyncClient, running: int, waiting: int) -> None:
    """Wait until so many runs are under way and wait."""
    for _ in range(2000):
        state = await health(http)
        if (state["running"], state["waiting"]) == (running, waiting):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not {running} under way and {waiting} waiting, but {state}")


async def until_idle(http: httpx.AsyncClient) -> None:
    await until(http, 0, 0)


def test_sixty_direct_posts_during_a_run_stop_nobody() -> None:
    async def scenario(address: str) -> None:
        async with calls.client(address, kept=0) as http:
            running = await called(http, 200)
            reading = asyncio.ensure_future(told(http, running))
            posts = [
                asyncio.ensure_future(http.post("/gradio_api/run/run", json={"data": run_values(8)})) for _ in range(60)
            ]
            assert (await http.get("/config")).status_code == 200, "the page answers while all of them wait"
            assert await reading == "length"
            answers = [await post for post in posts]
            served_, refused = [[each for each in answers if (each.status_code == 200) is ok] for ok in (True, False)]
            assert served_
            assert all("under way or waiting; let one end" in each.json()["error"] for each in refused)
            await until_idle(http)
            assert await told(http, await called(http, 8)) == "length"

    with served(toy_session(delay=0.002)) as address:
        finished(scenario(address))


@contextmanager
def held() -> Iterator[tuple[Session, threading.Event]]:
    """A session whose runs of the prompt "hold" go on once the event is set."""
    session, release = toy_session(), threading.Event()
    run = session.run

    def held(request: Request, **options: Any) -> Generator[Event, None, None]:
        if request.prompt == "hold":
            release.wait()
        yield from run(request, **options)

    session.run = held  # type: ignore[method-assign]
    try:
        yield session, release
    finally:
        release.set()


def test_two_hundred_clients_are_all_served() -> None:
    async def scenario(address: str) -> None:
        async with calls.client(address) as http:
            threads = threading.active_count()

            async def one(number: int) -> str:
                return await told(http, await called(http, 8, f"client{number}"))

            holder = asyncio.ensure_future(told(http, await calls.called(http, run_values(8, "hold"))))
            reading = [asyncio.ensure_future(one(number)) for number in range(200)]
            while (await health(http))["waiting"] < 200:
                assert not any(each.done() for each in reading)
                await asyncio.sleep(0.05)
            assert (await http.get("/config")).status_code == 200
            # two event loops with pools of forty at most, however many wait
            assert threading.active_count() - threads < 100, "who waits holds no thread"
            release.set()
            assert await holder == "length"
            assert Counter([await each for each in reading]) == {"length": 200}
            await until_idle(http)

    assert LENGTH > 200
    with held() as (session, release), served(session) as address:
        finished(scenario(address))


def test_runs_that_nobody_reads_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 0.5)

    async def scenario(address: str) -> None:
        async with calls.client(address, kept=0) as http:
            for number in range(30):
                await called(http, 240, f"orphan{number}")
            assert await told(http, await called(http, 8, "visitor")) == "length"
            await until_idle(http)
            figures = (await http.get("/metrics")).text
            assert 'playground_runs_total{reason="length"} 1.0' in figures, "none of them ran to its end"

    with served(toy_session(delay=0.05)) as address:
        finished(scenario(address))


def test_who_leaves_while_waiting_frees_the_place_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 3600.0)

    async def scenario(address: str) -> None:
        async with calls.client(address, kept=0) as http:
            holder = await calls.called(http, run_values(8, "hold"))
            await until(http, running=1, waiting=0)
            streams = [f"/gradio_api/call/run/{await called(http, 8, session)}" for session in (None, "named")]
            async with AsyncExitStack() as waiting:
                for stream in streams:
                    await waiting.enter_async_context(http.stream("GET", stream))
                await until(http, running=1, waiting=len(streams))
            await until(http, running=1, waiting=0)
            release.set()
            assert await told(http, holder) == "length"
            await until_idle(http)
            runs = [line for line in (await http.get("/metrics")).text.splitlines() if "playground_runs_total{" in line]
            assert runs == ['playground_runs_total{reason="length"} 1.0'], "whoever left had no turn any more"

    with held() as (session, release), served(session) as address:
        finished(scenario(address))


def test_who_drops_a_direct_post_while_waiting_frees_the_place_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 3600.0)

    async def scenario(address: str) -> None:
        async with calls.client(address) as http:
            holder = await calls.called(http, run_values(8, "hold"))
            await until(http, running=1, waiting=0)
            asked = [{"data": run_values(8), "session_hash": session} for session in ("named", None, None)]
            posts = [asyncio.ensure_future(http.post("/gradio_api/run/run", json=each)) for each in asked]
            await until(http, running=1, waiting=len(posts))
            for post in posts[:2]:
                post.cancel()
            await until(http, running=1, waiting=1)
            release.set()
            assert await told(http, holder) == "length"
            assert (await posts[2]).status_code == 200, "whoever stayed has the turn"
            await until_idle(http)

    with held() as (session, release), served(session) as address:
        finished(scenario(address))


def test_many_runs_with_random_ends_leave_nothing_behind() -> None:
    chance = random.Random(3)

    async def one(http: httpx.AsyncClient, number: int) -> None:
        event = await called(http, 8, f"visitor{number}")
        if chance.random() < 0.4:
            async with http.stream("GET", f"/gradio_api/call/run/{event}") as stream:
                async for _ in stream.aiter_lines():
                    if chance.random() < 0.5:
                        return  # the connection goes with it
        else:
            assert await told(http, event) == "length"

    async def scenario(address: str) -> list[int]:
        kept = []
        async with calls.client(address, kept=0) as http:
            for start in range(0, 150, 30):
                await asyncio.gather(*[one(http, start + number) for number in range(30)])
                await until_idle(http)
                gc.collect()
                kept.append(sum(str(type(each).__module__).startswith("app.") for each in gc.get_objects()))
        return kept

    with served(toy_session()) as address:
        kept = finished(scenario(address))
    assert kept[-1] < 1.02 * kept[1], kept
