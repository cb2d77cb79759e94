"""Wrong passwords cost time: each one of an address makes its next try wait longer, and its tries take turns. After a
wrong one the tries of all addresses come one after another, since addresses are easily had. No gradio here."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.types import Message, Send

FIRST_SECONDS, MOST_SECONDS = 0.5, 16.0
FORGOTTEN_SECONDS = 600.0
SECONDS_BETWEEN = 0.1
"""Between two tries of whatever addresses, while wrong ones come."""
WAITING = 4
"""Tries of one address that may wait; more are turned away."""
ADDRESSES = 4096


@dataclass(slots=True)
class _Address:
    wrong: int = 0
    last: float = 0.0
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Logins:
    """Tries by address."""

    def __init__(
        self, first: float = FIRST_SECONDS, most: float = MOST_SECONDS, between: float = SECONDS_BETWEEN
    ) -> None:
        self._first, self._most, self._between = first, most, between
        self._next, self._wrong_at = 0.0, -FORGOTTEN_SECONDS
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    async def tried(self, address: str, login: Callable[[Send], Awaitable[None]], send: Send) -> None:
        """Hand a try on to `login` when its time has come; it gets what it is to send its answer with."""
        known = self._known(address)
        if known.waiting >= WAITING or self._next - time.monotonic() > self._most:
            await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        known.waiting += 1
        try:
            async with known.turn:
                if known.wrong:
                    await asyncio.sleep(min(self._first * 2 ** min(known.wrong - 1, 16), self._most))
                await self._between_all()

                async def told(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        known.wrong = known.wrong + 1 if message["status"] >= 400 else 0
                        known.last = time.monotonic()
                        self._wrong_at = known.last if known.wrong else self._wrong_at
                    await send(message)

                await login(told)
        finally:
            known.waiting -= 1

    async def _between_all(self) -> None:
        now = time.monotonic()
        if now - self._wrong_at < FORGOTTEN_SECONDS:
            self._next = max(now, self._next + self._between)
            await asyncio.sleep(self._next - now)

    def _known(self, address: str) -> _Address:
        address = _network(address)
        known = self._addresses.setdefault(address, _Address())
        self._addresses.move_to_end(address)
        if not known.waiting and time.monotonic() - known.last > FORGOTTEN_SECONDS:
            known.wrong = 0
        while len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)
        return known


def _network(address: str) -> str:
    """The part of it that a household is given: of IPv6 whoever has one has 2^64."""
    try:
        version_6 = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if version_6.ipv4_mapped is not None:
        return str(version_6.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(version_6) >> 64 << 64, 64)))
