"""Connections of the server that asks: how long an idle one is kept, and that none is held by saying nothing. No gradio
here."""

from __future__ import annotations

import resource
import threading
import time
from contextlib import suppress
from typing import Any

KEPT_SECONDS = 75.0
"""An idle connection is kept for another request, longer than clients and proxies keep theirs (5 and 60 s): where both
keep it equally long, now and then a request is sent just as the server closes, and is lost."""
SILENT_SECONDS = 20.0
"""A connection may take so long to bring the head of a request."""
LOOK_SECONDS = 5.0
FILES = 65536
"""Open ones, each connection being one, where the system allows so many."""
_NONE: Any = object()


def tend(server: Any) -> None:
    """Tend the connections of a uvicorn server that is up, until it ends."""
    server.config.timeout_keep_alive = KEPT_SECONDS
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    threading.Thread(target=_look, args=(server,), name="connections", daemon=True).start()


def _look(server: Any) -> None:
    since: dict[Any, tuple[Any, float]] = {}
    while not server.should_exit:
        since = _silent(server, since)
        time.sleep(LOOK_SECONDS)


def _silent(server: Any, before: dict[Any, tuple[Any, float]]) -> dict[Any, tuple[Any, float]]:
    """End the connections that have said nothing for too long; the others that say nothing, each with its last request,
    and since when. before: what the last look gave."""
    now, since = time.monotonic(), dict[Any, tuple[Any, float]]()
    for each in list(server.server_state.connections):
        request = getattr(each, "cycle", _NONE)
        if request is _NONE or each.timeout_keep_alive_task is not None:
            continue  # no HTTP, or kept for another request
        if request is not None and not request.response_complete:
            continue
        last, began = before.get(each, (request, now))
        since[each] = (request, now if last is not request else began)
        if now - since[each][1] >= SILENT_SECONDS:
            each.loop.call_soon_threadsafe(_end, each, request)
    return since


def _end(connection: Any, request: Any) -> None:
    if connection.cycle is request:
        connection.transport.abort()
