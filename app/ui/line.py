"""The line before the device: first come, first served. Waiting holds no thread, the line is bounded, and so is each
client.

Everything here runs on the server's event loop, except what `Line.pumped` calls: that runs in threads of the line's
own, one for each engine, so that nothing else the server does can keep a run from going on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from app.errors import RequestError

Item = TypeVar("Item")

LENGTH = 256
"""Who waits at most, whoever it is."""
LENGTH_OF_A_CLIENT = 4
"""Runs of one client, the one under way included."""
SECONDS_BETWEEN_PLACES = 1.0
"""How often a waiting person is told another place; far behind, less often: two hundred waiting cost the engine
nothing."""
FAR, SECONDS_WHEN_FAR = 10, 4.0
SECONDS_WITHOUT_NEWS = 15.0
"""An update is sent at least this often: it is how a person who left is noticed where nothing else tells."""
_REMEMBERED = 16
"""Turns of which the mean length is taken."""
_END = object()


@dataclass(frozen=True, slots=True)
class Place:
    """How many are before one, and about how long that takes; None where no turn has ended yet."""

    ahead: int
    seconds: float | None


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the line."""

    client: str
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0


class Line:
    """Who uses the engines."""

    def __init__(self, engines: int = 1, length: int = LENGTH, of_a_client: int = LENGTH_OF_A_CLIENT) -> None:
        """engines: how many have their turn at once."""
        self.engines = engines
        self._length, self._of_a_client = length, of_a_client
        self._tickets: list[Ticket] = []
        self._clients: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._threads = ThreadPoolExecutor(engines, thread_name_prefix="engine")
        self._closed = False

    @property
    def waiting(self) -> int:
        return max(0, len(self._tickets) - self.engines)

    @property
    def running(self) -> int:
        return min(len(self._tickets), self.engines)

    def close(self) -> None:
        """Refuse whoever comes from now on."""
        self._closed = True

    @asynccontextmanager
    async def ticket(self, client: str = "", of_a_client: int | None = None) -> AsyncIterator[Ticket]:
        """A place at the end of the line, given up on leaving. of_a_client: another bound for this client.

        Raises RequestError where the line, or this client's part of it, is full.
        """
        if self._closed:
            raise RequestError("The playground is about to end; start it again.")
        if len(self._tickets) >= self.engines + self._length:
            raise RequestError(f"{self.waiting} runs are waiting already, and no more can; try again in a minute.")
        if client and self._clients[client] >= (of_a_client or self._of_a_client):
            raise RequestError(
                f"{self._clients[client]} runs of yours are under way or waiting; let one end, or stop it."
            )
        mine = Ticket(client)
        self._tickets.append(mine)
        self._clients[client] += 1
        self._call_next()
        try:
            yield mine
        finally:
            if mine.began:
                self._seconds.append(time.monotonic() - mine.began)
            self._tickets.remove(mine)
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            self._call_next()

    def _call_next(self) -> None:
        for ticket in self._tickets[: self.engines]:
            if not ticket.turn.is_set():
                ticket.began = time.monotonic()
                ticket.turn.set()

    def place(self, ticket: Ticket) -> Place:
        ahead = max(0, self._tickets.index(ticket) + 1 - self.engines)
        if not ahead or not self._seconds:
            return Place(ahead, None)
        return Place(ahead, ahead * sum(self._seconds) / len(self._seconds) / self.engines)

    async def places(self, ticket: Ticket, stop: asyncio.Event) -> AsyncIterator[Place | None]:
        """The places of a waiting ticket as they change, None where there is no news, until its turn comes or `stop` is
        set."""
        told, told_at = -1, 0.0
        while not ticket.turn.is_set() and not stop.is_set():
            place, now = self.place(ticket), time.monotonic()
            if place.ahead != told:
                told, told_at = place.ahead, now
                yield place
            elif now - told_at >= SECONDS_WITHOUT_NEWS:
                told_at = now
                yield None
            await either(ticket.turn, stop, SECONDS_WHEN_FAR if place.ahead > FAR else SECONDS_BETWEEN_PLACES)

    @asynccontextmanager
    async def turn(self, client: str = "", of_a_client: int | None = None) -> AsyncIterator[Ticket]:
        """A ticket whose turn has come, however long that takes. Raises RequestError."""
        async with self.ticket(client, of_a_client) as ticket:
            await ticket.turn.wait()
            yield ticket

    async def called(self, function: Callable[[], Item]) -> Item:
        """What the function returns, called in an engine's thread. Only for who has the turn."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def pumped(self, start: Callable[[], Generator[Item, None, None]]) -> AsyncGenerator[Item, None]:
        """The items of `start()`, each made in an engine's thread when it is asked for. Only for who has the turn.

        The generator is closed when this one is, once the step under way is over.
        """
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(self._threads, start)
        step: asyncio.Future[object] | None = None
        try:
            items = await asyncio.shield(opening)
            while True:
                step = loop.run_in_executor(self._threads, next, items, _END)
                item = await asyncio.shield(step)
                if item is _END:
                    return
                yield item  # type: ignore[misc]
        finally:
            if step is not None and not step.done():
                await asyncio.wait([step])
            if step is not None and not step.cancelled():
                step.exception()  # taken note of: whoever left does not ask for it
            with contextlib.suppress(Exception):
                opened = await opening
                await loop.run_in_executor(self._threads, opened.close)


async def either(one: asyncio.Event, other: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until either is set, so many seconds at most."""
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
