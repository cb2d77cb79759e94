"""Whether anybody reads what a run says: the guard tells which streams are open, a run asks. No gradio here."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

PATIENCE = 10.0
"""Seconds after which a run is given up that nobody began to read, or whose reader is gone without a word."""
LOOK = 0.5
STREAM = "app.stream"
"""Of a request's ASGI scope: the name of the stream that its own answer is, where a run is called directly."""


class Readers:
    """Open streams by session (for a program's call, the id of its event)."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._watched: list[tuple[tuple[str, ...], asyncio.Event]] = []

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """While a stream of the session is open."""
        self._open[session] += 1
        try:
            yield
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]

    def left(self, session: str) -> None:
        """Whoever read the session's stream closed it before its end: nothing more of its runs can be read."""
        for streams, stop in self._watched:
            if session in streams:
                stop.set()

    @asynccontextmanager
    async def watched(
        self, streams: tuple[str, ...], stop: asyncio.Event, patience: float | None = None
    ) -> AsyncIterator[None]:
        """Set `stop` once the reader has left, or nobody has read for so many seconds (None: PATIENCE). no streams:
        nothing is told of them."""
        if not streams:
            yield
            return
        watch = asyncio.ensure_future(self._watch(streams, stop, PATIENCE if patience is None else patience))
        entry = (streams, stop)
        self._watched.append(entry)
        try:
            yield
        finally:
            self._watched.remove(entry)
            watch.cancel()

    async def _watch(self, streams: tuple[str, ...], stop: asyncio.Event, patience: float) -> None:
        read = time.monotonic()
        while True:
            if any(stream in self._open for stream in streams):
                read = time.monotonic()
            elif time.monotonic() - read >= patience:
                stop.set()
                return
            await asyncio.sleep(min(LOOK, patience / 4))
