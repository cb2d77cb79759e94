"""Endpoints for programs: /run, /pairs, /export."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing, closing
from typing import Any

import gradio as gr
from gradio.events import api

from app.errors import RequestError
from app.record import trace
from app.record.conversation import messages_of
from app.record.trace import Event, ModelCard, Request
from app.ui.desk import Desk
from app.ui.export import export_html
from app.ui.knobs import request_of
from app.ui.line import either
from app.ui.session import Session
from app.ui.visitors import visitor_of


def build(session: Session, desk: Desk) -> None:
    """Put the endpoints into the Blocks context it is called in. Their signatures are what programs see."""

    def _asked(prompt: Any, knobs: tuple[Any, ...]) -> Request:
        # the same parameter: one more would turn away programs that send values by their place
        if isinstance(prompt, str):
            return request_of(prompt, *knobs)
        return request_of("", *knobs, messages=messages_of(prompt))

    async def run(
        visitor: gr.Request,
        prompt: str,
        k: int = session.default_k,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        acceptor: str = session.acceptors[0].name,
        drafter: str = session.drafters[0],
        arms: str = "both",
        system: str = "",
        chat_template: bool = True,
    ) -> AsyncIterator[str]:
        """Run one prompt. Streams the events of the run, each a line of JSON as in a trace file. k: a window, or
        "auto". prompt: a text, or a conversation that ends with what is asked, a list of {"role", "content"}.

        A refused request ends the stream; `job.result()` of gradio_client raises its sentence. All lines:
        `job.outputs()`."""
        # The session refuses arms it does not know: a program may send anything.
        knobs = (k, max_tokens, temperature, top_p, top_k, seed, acceptor, drafter, arms, system, chat_template)
        stop = asyncio.Event()

        def start() -> Generator[Event, None, None]:
            request = desk.limits.checked(_asked(prompt, knobs))
            return session.run(request, stopped=stop.is_set)

        def lines() -> Generator[str, None, None]:
            with closing(desk.events(start, stop)) as events:
                yield from map(trace.dumps, events)

        try:
            async with desk.ticket(visitor_of(visitor), stop) as ticket:
                await either(ticket.turn, stop)
                if stop.is_set():
                    raise RequestError("Nobody read what this run was to say; it was given up before its turn came.")
                async with aclosing(desk.line.pumped(lines)) as pumped:
                    async for line in pumped:
                        yield line
        except Exception as error:
            raise gr.Error(desk.sentence(error), print_exception=False) from None

    def pairs() -> list[dict[str, Any]]:
        """What is loaded: the pair, its models, windows and acceptors."""
        return [describe(session)]

    def export(trace_lines: str) -> str:
        """A trace (the lines of its file) as one self-contained HTML page."""
        try:
            return export_html(trace.read_text(trace_lines))
        except Exception as error:
            raise gr.Error(desk.sentence(error), print_exception=False) from None

    api(run, api_name="run", concurrency_limit=None)
    api(pairs, api_name="pairs", queue=False)
    api(export, api_name="export")


def describe(session: Session) -> dict[str, Any]:
    """The loaded pair as JSON types; sizes in bytes."""

    def model(card: ModelCard) -> dict[str, Any]:
        return {
            "name": card.name,
            "num_parameters": card.num_parameters,
            "dtype": card.dtype,
            "memory": card.memory,
            "vocab_size": card.vocab_size,
            "n_positions": card.n_positions,
            "row_difference": card.row_difference,
        }

    return {
        "pair": session.pair,
        "backend": session.backend,
        "device": session.device,
        "target": model(session.target),
        "draft": None if session.draft is None else model(session.draft),
        "windows": None if session.windows is None else list(session.windows),
        "max_k": session.max_k,
        "default_k": session.default_k,
        "bit_identical": session.bit_identical,
        "acceptors": [
            {"name": each.name, "description": each.description, "lossless": each.lossless, "same_text": each.same_text}
            for each in session.acceptors
        ],
        "drafters": list(session.drafters),
        "listed": list(session.pairs),
        "process_memory": session.memory(),
    }
