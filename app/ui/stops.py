"""Stopping a run by its id: only the page that began it may, and a Stop that comes first is kept. No gradio here."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 256
"""Stops kept for runs that have not begun."""


class Stops:
    """The runs that may be stopped, by owner and id."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._under_way: dict[tuple[str, str], asyncio.Event] = {}
        self._early: OrderedDict[tuple[str, str], None] = OrderedDict()

    @contextmanager
    def run(self, owner: str, run_id: str) -> Iterator[asyncio.Event]:
        """What is set when the run is to end; set already where its Stop came before it."""
        key, stop = (owner, run_id), asyncio.Event()
        if key in self._early:
            del self._early[key]
            stop.set()
        self._under_way[key] = stop
        try:
            yield stop
        finally:
            if self._under_way.get(key) is stop:
                del self._under_way[key]

    def stop(self, owner: str, run_id: str, *, keep: bool = True) -> None:
        """keep: remember it for a run of this id that has not begun (ids that are used once)."""
        key = (owner, run_id)
        if (stop := self._under_way.get(key)) is not None:
            stop.set()
        elif keep:
            self._early[key] = None
            while len(self._early) > self._remembered:
                self._early.popitem(last=False)
