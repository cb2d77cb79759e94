"""Which pair is loaded, told to every open page as it changes: one stream a page, silent in between. No gradio here."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.types import Receive, Send

MOST = 1024
"""Streams there may be; a page beyond them tells the pair it was opened with."""
SECONDS_BETWEEN_SIGNS = 20.0
"""A stream that says nothing for longer, a proxy takes for dead."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Switches:
    """The name of the loaded pair."""

    def __init__(self) -> None:
        self._chosen = ""
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def tell(self, chosen: str) -> None:
        """Another pair is loaded. Called from any thread."""
        self._chosen = chosen
        for loop, news in tuple(self._listeners):
            with suppress(RuntimeError):  # its loop is over
                loop.call_soon_threadsafe(news.set)

    @property
    def full(self) -> bool:
        return len(self._listeners) >= MOST

    async def stream(self, receive: Receive, send: Send) -> None:
        """An ASGI answer that says which pair is loaded, at once and after every switch, as server-sent events."""
        news = asyncio.Event()
        listener = (asyncio.get_running_loop(), news)
        left = asyncio.ensure_future(_left(receive))
        self._listeners.add(listener)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            said = None
            while not left.done():
                sign = ":\n\n" if said == self._chosen else f"data: {json.dumps(self._chosen)}\n\n"
                said = self._chosen
                news.clear()
                await send({"type": "http.response.body", "body": sign.encode(), "more_body": True})
                waits = [left, asyncio.ensure_future(news.wait())]
                await asyncio.wait(waits, timeout=SECONDS_BETWEEN_SIGNS, return_when=asyncio.FIRST_COMPLETED)
                waits[1].cancel()
        finally:
            self._listeners.discard(listener)
            left.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
