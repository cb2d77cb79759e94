"""A program's run over HTTP: asked for, and read as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from app.errors import RequestError
from app.record import trace
from app.record.trace import Event

_CALL = "/gradio_api/call/run"


def client(address: str, kept: int | None = None) -> httpx.AsyncClient:
    """Of a crowd: any number of connections. kept: how many of them for another call, None for all; for less time than
    the page keeps them, since a call that is sent just as its connection is closed is lost."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept)
    return httpx.AsyncClient(base_url=address, timeout=300, limits=limits, trust_env=False)


async def called(http: httpx.AsyncClient, values: list[Any], session: str | None = None) -> str:
    """The id of a run that is asked for. values: `/run`'s, in their order. Raises httpx.HTTPStatusError."""
    answer = await http.post(_CALL, json={"data": values, "session_hash": session})
    answer.raise_for_status()
    return str(answer.json()["event_id"])


async def events(http: httpx.AsyncClient, call: str) -> AsyncGenerator[Event, None]:
    """What the run says, until it or its connection ends; to be closed by who leaves it before. Raises RequestError,
    with its sentence, where the run is refused; httpx.HTTPStatusError where the page does not know it."""
    kind = ""
    try:
        async with http.stream("GET", f"{_CALL}/{call}") as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                name, _, rest = line.partition(": ")
                if name == "event":
                    kind = rest
                elif name == "data" and kind == "error":
                    raise RequestError(_sentence(rest))
                elif name == "data" and kind == "generating":
                    (told,) = json.loads(rest)
                    yield trace.loads(told)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return  # whoever reads misses the run's end


def _sentence(data: str) -> str:
    """Gradio's own faults are a text, or nothing; the playground's have a sentence in them."""
    told = json.loads(data)
    return str(told["error"] if isinstance(told, dict) and "error" in told else told)
