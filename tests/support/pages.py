"""The page, served for a test: toy sessions, and a server on a port of its own."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.backends.toy import toy_pair
from app.engine.pair import Pair
from app.engine.session import Session
from app.record.trace import Trace
from app.ui import connections
from app.ui import session as ui
from app.ui.desk import Desk
from app.ui.line import Line
from app.ui.page import build_page, launch_options
from app.ui.readers import Readers

EXAMPLES = [{"category": "chat", "prompt": "Say hello."}, {"category": "list", "prompt": "Name three rivers."}]


NAMED = ("https://www.w3.org", "http://www.w3.org", "https://github.com/leeoniya/uPlot")
"""What only has the form of an address: XML's namespaces, and where a library's banner says it is from."""


def foreign(document: str) -> list[str]:
    """The addresses of other hosts in a page."""
    return [found for found in re.findall(r"https?://[^\s\"'<>)]*", document) if not found.startswith(NAMED)]


def toy_session(**options: Any) -> Session:
    """A session over `toy_pair(**options)`; byte-level, so that it takes any prompt."""
    options.setdefault("vocab_size", 259)
    target, draft, tokenizer = toy_pair(**options)
    return Session(Pair("toy target + toy draft", "toy", target, draft, tokenizer))


@contextmanager
def served(
    session: ui.Session | None, replay: Trace | None = None, catalogue: ui.Catalogue | None = None
) -> Iterator[str]:
    """The address of the page while it is served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    desk = Desk(Line(getattr(session, "engines", 1)), Readers(), catalogue=catalogue)
    page = build_page(session, EXAMPLES, replay, desk=desk)
    options = launch_options(session, desk)
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    connections.tend(page.server)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        page.close(verbose=False)
