"""A run on its way to the page: its place in line, then coalesced updates. No gradio here."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing, contextmanager

from app.errors import RequestError
from app.record.trace import Event, Round, TokenTexts
from app.ui.desk import Desk, Visitor
from app.ui.line import Place
from app.ui.render import Item, Renderer

MAX_UPDATES_A_SECOND = 4  # 15 at most; each costs the browser some 30 ms, on a machine that it shares with the engine
PAUSE = 0.06
"""Seconds between an update and the next round: the browser and the server's own threads take in the update meanwhile,
and not during a pass, which would be timed slower than the engine is. Nothing of it is on an arm's clock."""
SLOTS = 2


class Updates:
    """What the component's value is over a run: a ring of JSON slots, of which each update rewrites one.

    The browser takes in every slot it has not seen, so an update may be late, and the server never compares or sends
    more than one slot, however long the text. A ring is short, since gradio's page writes all of it as JSON six times
    at every update; who was away for longer asks for what it missed.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._made: list[str] = []
        self._slots = [""] * SLOTS

    def value(self, items: Iterable[Item]) -> list[str]:
        """The value with these items in it."""
        slot = {"run": self._run_id, "seq": len(self._made), "items": list(items)}
        made = json.dumps(slot, separators=(",", ":"), allow_nan=False)
        self._slots[len(self._made) % SLOTS] = made
        self._made.append(made)
        return self.same()

    def same(self) -> list[str]:
        return list(self._slots)

    def since(self, seq: int) -> list[str]:
        """The slots from number `seq` on."""
        return self._made[max(0, seq) :]


class Recent:
    """The updates of the runs under way, and of the last ones that ended, by id."""

    def __init__(self, size: int = 8) -> None:
        """size: runs kept after their end."""
        self._size, self._updates, self._ended = size, dict[str, Updates](), deque[str]()

    @contextmanager
    def run(self, run_id: str) -> Iterator[Updates]:
        """The updates of a run, kept at least as long as it lasts."""
        self._updates[run_id] = updates = Updates(run_id)
        try:
            yield updates
        finally:
            self._ended.append(run_id)
            while len(self._ended) > self._size:
                self._updates.pop(self._ended.popleft(), None)

    def since(self, run_id: object, seq: object) -> list[str]:
        """What a browser asks for. Raises RequestError."""
        updates = self._updates.get(run_id) if isinstance(run_id, str) else None
        if updates is None or not isinstance(seq, int):
            raise RequestError("The server no longer holds this run; run it again.")
        return updates.since(seq)


async def stream(
    updates: Updates,
    start: Callable[[], Generator[Event, None, None]],
    desk: Desk,
    visitor: Visitor,
    stop: asyncio.Event,
    interval: float = 1 / MAX_UPDATES_A_SECOND,
    pause: float = PAUSE,
) -> AsyncGenerator[list[str], None]:
    """Values of the page's component while the events of `start()` arrive, one each `interval` seconds at most.

    Closing this generator, or setting `stop`, closes the events within one of them. A fault ends the stream with
    an item {"error": sentence}.
    """

    def values() -> Generator[list[str], None, None]:
        with closing(desk.events(start, stop)) as events:
            for batch in _batches(events, interval, pause):
                yield updates.value(batch)

    try:
        async with desk.ticket(visitor, stop) as ticket:
            async for place in desk.line.places(ticket, stop):
                yield updates.same() if place is None else updates.value([_waiting(place)])
            if stop.is_set():
                yield updates.value([{"error": "Stopped before its turn came."}])
                return
            async with aclosing(desk.line.pumped(values)) as pumped:
                async for value in pumped:
                    yield value
    except Exception as error:
        yield updates.value([{"error": desk.sentence(error)}])


def _waiting(place: Place) -> Item:
    return {"waiting": place.ahead} if place.seconds is None else {"waiting": place.ahead, "seconds": place.seconds}


def _batches(events: Iterator[Event], interval: float, pause: float) -> Iterator[list[Item]]:
    renderer = Renderer()
    batch: list[Item] = []
    due = 0.0
    for event in events:
        batch.append(renderer.item(event))
        # Texts alone show nothing: they go with their round, which follows. And the first round, whose token somebody
        # waits for, is not held back by the update that said the run had begun.
        if time.perf_counter() >= due and not isinstance(event, TokenTexts):
            yield batch
            time.sleep(pause)
            # Counted from here: the time the update itself took is not the viewer's to lose.
            batch, due = [], time.perf_counter() + interval if isinstance(event, Round) else 0.0
    if batch:
        yield batch
