"""An engine of a pool, on whatever machine Ray put it: an engine in a process of its own, asked and answering in JSON.

Ray calls it; nothing of Ray is known here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.errors import PlaygroundError
from app.hosting import description
from app.hosting.process import Home, ProcessEngine
from app.hosting.recipe import Recipe
from app.record import trace

_END = object()


class Replica:
    """One engine: a run at a time, by Ray's own bound. Where the pair cannot be loaded here, it says so to whoever
    asks, and to Ray, which tries another."""

    def __init__(self, factory: str, arguments: dict[str, Any], homes: dict[str, list[Any]], settings: dict[str, Any]):
        """factory, arguments: of a `Recipe`. homes: by pair, the fields of a `Home`. settings: of `ProcessEngine`."""
        # a thread of its own: steps of a run, and its end, come one after the other
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._fault: dict[str, str] = {}
        self._told = False
        try:
            self._engine = ProcessEngine(
                Recipe(factory, arguments), homes={name: Home(*home) for name, home in homes.items()}, **settings
            )
        except PlaygroundError as error:
            self._fault = _fault(error)

    def check_health(self) -> None:
        """Ray's question: where it fails, another is started in this one's place."""
        if self._told:
            raise RuntimeError(self._fault["sentence"])

    async def describe(self, name: str) -> str:
        """What the engine says of itself once the pair of this name is loaded (empty: the one that is)."""
        if self._fault:
            self._told = True
            return json.dumps(self._fault)
        try:
            if name:
                await self.load(name)
        except PlaygroundError as error:
            return json.dumps(_fault(error))
        return json.dumps({"description": description.to_dict(self._engine.described)})

    async def load(self, name: str) -> None:
        """Have the pair of this name loaded. Raises PlaygroundError."""
        await self._called(self._engine.switch, name)

    async def run(self, request: str, name: str) -> AsyncGenerator[str, None]:
        """The events of a run of this pair, a line each as in a trace file; or one line that is a fault. Closing or
        cancelling it frees the engine within a round. request: as JSON."""
        if self._fault:
            self._told = True
            yield json.dumps(self._fault)
            return
        left = threading.Event()
        events = None
        try:
            if name:
                await self.load(name)
            events = self._engine.run(trace.request(json.loads(request)), stopped=left.is_set)
            while (event := await self._called(next, events, _END)) is not _END:
                yield trace.dumps(event)
        except PlaygroundError as error:
            yield json.dumps(_fault(error))
        finally:
            left.set()
            if events is not None:
                await asyncio.shield(self._called(events.close))

    async def _called(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _fault(error: PlaygroundError) -> dict[str, str]:
    return {"fault": type(error).__name__, "sentence": str(error)}
