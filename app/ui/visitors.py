"""Who asks, as the line and the readers know them, from what Gradio says of a request."""

from __future__ import annotations

import re

import gradio as gr
from gradio.context import LocalContext

from app.ui.desk import OF_AN_ADDRESS, Visitor
from app.ui.readers import STREAM

_EVENT = re.compile(r"[0-9a-f]{32}")
"""What Gradio calls the session of a program that named none: the id of its call."""


def visitor_of(request: gr.Request) -> Visitor:
    """A page by its session; a program that names none by its address."""
    session = None if request.session_hash is None else str(request.session_hash)
    event = LocalContext.event_id.get(None)
    if event is not None:
        streams: tuple[str, ...] = (*([] if session is None else [session]), event)
    else:  # a direct call, read by whoever waits for its answer
        direct = None if request.request is None else request.request.scope.get(STREAM)
        streams = () if direct is None else (str(direct),)
    if session is not None and not _EVENT.fullmatch(session):
        return Visitor(session, streams)
    address = getattr(request.client, "host", None) if request.request is not None else None
    return Visitor(f"address {address}", streams, OF_AN_ADDRESS)
