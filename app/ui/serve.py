"""Serving the page: one process, one device, this machine unless told otherwise."""

from __future__ import annotations

import gc
import json
import socket
from collections import deque
from contextlib import suppress

from app.errors import PlaygroundError, RequestError
from app.places import ASSETS
from app.record.trace import Request, Trace
from app.ui.page import build_page, launch_options
from app.ui.session import Session


def check_port(host: str, port: int) -> None:
    """Raises RequestError, before a model is loaded, if the page could not be served there."""
    if not 1 <= port <= 65535:
        raise RequestError(f"There is no port {port}; choose 1 to 65535 with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise RequestError(f"There is no address {host!r} on this machine; choose another with --host.") from None
    except PermissionError:
        raise RequestError(
            f"Port {port} needs rights that you do not have; choose one above 1023 with --port."
        ) from None
    except OSError as error:
        raise RequestError(
            f"Port {port} cannot be used on {host} ({error.strerror}); choose another with --port."
        ) from None


def examples() -> list[dict[str, str]]:
    """The prompts offered, each with its category; none where the files are absent.

    prompts.json is what drafts and acceptors are measured on; rewriting.json shows what lookup drafting is for.
    """
    paths = [path for name in ("prompts.json", "rewriting.json") if (path := ASSETS / name).exists()]
    found: list[dict[str, str]] = [entry for path in paths for entry in json.loads(path.read_text(encoding="utf-8"))]
    return found


def warm_up(session: Session) -> None:
    """A first short run, so that the first one on the page is timed like any other."""
    request = Request("Hello", max_tokens=8, k=session.default_k, drafter=session.drafters[0])
    with suppress(PlaygroundError):  # what cannot run says so when it is asked for
        deque(session.run(request), maxlen=0)


def serve(session: Session | None, replay: Trace | None, *, host: str, port: int, auth: tuple[str, str] | None) -> None:
    """Serve until interrupted."""
    if session is not None:
        warm_up(session)
    page = build_page(session, examples(), replay, warm_up)
    gc.collect()
    gc.freeze()  # a page is some million objects that stay: looking through them costs passes of the models
    shown = f"[{host}]" if ":" in host else host
    print(
        f"The playground is at http://{'127.0.0.1' if host == '0.0.0.0' else shown}:{port} (Ctrl-C ends it).",
        flush=True,
    )
    page.launch(server_name=host, server_port=port, auth=auth, quiet=True, **launch_options())
