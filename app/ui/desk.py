"""What all runs of a page share: the line, who reads, the limits, the figures, and the sentence for what fails. No
gradio here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from app.errors import PlaygroundError, RequestError
from app.record.trace import Event, Request, RunFinished
from app.ui.line import Line, Ticket
from app.ui.operation import Figures
from app.ui.readers import Readers
from app.ui.session import Catalogue
from app.ui.switches import Switches
from app.wording import encodable

_LOG = logging.getLogger(__name__)
OF_AN_ADDRESS = 16
"""Calls of programs at one address that may be under way or wait: they name no session, so their address is all that is
known."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. max_tokens: of each arm. seconds: of wall time from its turn on. None: as long as it takes."""

    max_tokens: int | None = None
    seconds: float | None = None

    def checked(self, request: Request) -> Request:
        """The request. Raises RequestError where it asks for more."""
        if self.max_tokens is not None and request.max_tokens > self.max_tokens:
            raise RequestError(
                f"This playground gives {self.max_tokens} tokens a run at most, not {request.max_tokens}; choose fewer."
            )
        return request


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a run. client: whose part of the line it is. streams: what
    of it can be read, by any of these names; none where that cannot be watched.
    of_a_client: another bound than the line's own."""

    client: str = ""
    streams: tuple[str, ...] = ()
    of_a_client: int | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """Where runs are taken in."""

    line: Line = field(default_factory=Line)
    readers: Readers | None = None
    limits: Limits = Limits()
    figures: Figures = field(default_factory=Figures)
    switches: Switches = field(default_factory=Switches)
    catalogue: Catalogue | None = None
    """Pairs that may be fetched from the page; None: none may."""

    def __post_init__(self) -> None:
        line = self.line
        self.figures.watch(lambda: line.waiting, lambda: line.running, lambda: line.engines)

    @asynccontextmanager
    async def ticket(self, visitor: Visitor, stop: asyncio.Event) -> AsyncIterator[Ticket]:
        """A place in line; `stop` is set where nobody reads what comes of it. Raises RequestError where there is no
        room."""
        async with AsyncExitStack() as stack:
            try:
                ticket = await stack.enter_async_context(self.line.ticket(visitor.client, visitor.of_a_client))
            except RequestError:
                self.figures.refused.labels("line").inc()
                raise
            if self.readers is not None:
                await stack.enter_async_context(self.readers.watched(visitor.streams, stop))
            yield ticket

    def events(
        self, start: Callable[[], Generator[Event, None, None]], stop: asyncio.Event
    ) -> Generator[Event, None, None]:
        """The events of `start()`, counted; ended in good order once `stop` is set or the time is over."""
        began = time.monotonic()
        end = None if self.limits.seconds is None else began + self.limits.seconds
        yield from self.figures.counted(_ended(start(), stop, end))

    def sentence(self, error: Exception) -> str:
        """What the person is told of a fault."""
        if isinstance(error, PlaygroundError):
            return encodable(str(error))
        self.figures.faults.inc()
        _LOG.error("a run failed inside the playground", exc_info=error)
        return "The run failed inside the playground; the server's log has the details."


def _ended(
    events: Generator[Event, None, None], stop: asyncio.Event, end: float | None
) -> Generator[Event, None, None]:
    try:
        for event in events:
            yield event
            if isinstance(event, RunFinished):
                return
            if stop.is_set():
                events.close()
                yield RunFinished("cancelled")
                return
            if end is not None and time.monotonic() > end:
                events.close()
                yield RunFinished("cancelled", "This run took as long as a run may here; ask for fewer tokens.")
                return
    finally:
        events.close()
