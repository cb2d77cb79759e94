"""Bodies of requests on their way in: so large and so slow at most, and so many large ones at once. No gradio here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.ui import routes

LARGE_AT_ONCE = 2
"""Bodies of more than `routes.BODY`, or of a size that is not told, that are taken in at once."""
SECONDS, SLOWEST = 20.0, 64 * 1024
"""A body may take so long, and a second more for each so many bytes of it that came."""


class RefusalError(Exception):
    """A request that is turned away: its status and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Bodies:
    """Those of all requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._large = 0

    async def passed_on(
        self, scope: Scope, limit: int, receive: Receive, send: Send, left: Callable[[], None] | None = None
    ) -> None:
        """Pass the request on, and not more of its body than `limit` bytes. left: called once its sender is gone that
        sent all of it and has no answer yet. Raises RefusalError."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "") if "transfer-encoding" not in headers else ""
        declared = int(length) if length.isdecimal() and len(length) < 16 else limit + 1 if length else 0
        if declared > limit:
            raise _too_large(limit)
        body = _Body(receive, limit, left)
        if declared > routes.BODY or not length:
            if self._large >= LARGE_AT_ONCE:
                raise RefusalError(503, "Others are sending traces right now; try again in a moment.")
            self._large += 1
            body.when_in = self._one_is_in
        try:
            await self._answered(scope, body, send)
        finally:
            body.end()

    def _one_is_in(self) -> None:
        self._large -= 1

    async def _answered(self, scope: Scope, body: _Body, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if body.refusal is None or begun:
                begun = True
                await send(message)

        try:
            await self._app(scope, body.receive, sending)
        except Exception:
            if body.refusal is None or begun:
                raise
        if body.refusal is not None and not begun:
            # whatever reads the body makes of its end what it likes; the answer is ours
            raise body.refusal


class _Body:
    """One, and its sender after it."""

    def __init__(self, receive: Receive, limit: int, left: Callable[[], None] | None) -> None:
        self._receive, self._limit, self._left = receive, limit, left
        self._taken, self._in, self._end = 0, False, time.monotonic() + SECONDS
        self._after: asyncio.Future[Message] | None = None
        self.refusal: RefusalError | None = None
        self.when_in: Callable[[], None] | None = None
        """Called once, when all of it is in, or no more of it will come."""

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if self._after is not None:
            return await asyncio.shield(self._after)
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if self._in:
            return await self._receive()
        seconds = self._end + self._taken / SLOWEST - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:  # no TimeoutError yet in Python 3.10
            return self._refused(RefusalError(408, "This request did not come to its end; send it again."))
        self._taken += len(message.get("body", b""))
        if self._taken > self._limit:
            return self._refused(_too_large(self._limit))
        if not message.get("more_body", False):
            self._in = True
            self._over()
            if self._left is not None:
                self._after = asyncio.ensure_future(self._gone(self._left))
        return message

    def end(self) -> None:
        """Once the request is answered."""
        self._over()
        if self._after is not None:
            self._after.cancel()

    def _refused(self, refusal: RefusalError) -> Message:
        self.refusal = refusal
        self._over()
        return {"type": "http.disconnect"}

    def _over(self) -> None:
        if self.when_in is not None:
            self.when_in()
            self.when_in = None

    async def _gone(self, left: Callable[[], None]) -> Message:
        while (message := await self._receive())["type"] != "http.disconnect":
            pass
        left()
        return message


def _too_large(limit: int) -> RefusalError:
    return RefusalError(413, f"This is larger than {limit / 2**20:g} MB; send less.")
