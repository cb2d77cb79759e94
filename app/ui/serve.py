"""Serving the page: one process, one device, this machine unless told otherwise."""

from __future__ import annotations

import gc
import ipaddress
import json
import logging
import os
import queue
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from app.errors import RequestError
from app.places import ASSETS
from app.record.trace import Trace
from app.ui import connections, log, surroundings, upkeep
from app.ui.desk import Desk
from app.ui.guard import LOOPBACK, WILDCARDS
from app.ui.page import build_page, launch_options
from app.ui.session import Session

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}
SECONDS_FOR_LAST_WORDS = 0.5


def check_port(host: str, port: int) -> None:
    """Raises RequestError, before a model is loaded, if the page could not be served there."""
    if not 1 <= port <= 65535:
        raise RequestError(f"There is no port {port}; choose 1 to 65535 with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (socket.gaierror, UnicodeError):
        raise RequestError(f"There is no address {host!a} on this machine; choose another with --host.") from None
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
    prompts: list[dict[str, str]] = [entry for path in paths for entry in json.loads(path.read_text(encoding="utf-8"))]
    return prompts


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is, and for whom. logins: user and password each; empty: nobody is asked. allow_hosts: other names
    the page answers to."""

    host: str
    port: int
    logins: tuple[tuple[str, str], ...] = ()
    allow_hosts: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'127.0.0.1' if self.host in WILDCARDS else shown}:{self.port}"

    def is_public(self) -> bool:
        """Whether others than this machine reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host not in LOOPBACK


def serve(session: Session | None, replay: Trace | None, address: Address, desk: Desk) -> int:
    """Serve until interrupted or told to end; the exit code. session: closed at the end, where it can be."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    if session is not None:
        desk.figures.memory.set_function(session.memory)
        desk.figures.restarts.set_function(lambda: getattr(session, "restarts", 0))
    upkeep.free_large_blocks()
    with surroundings.put_aside():
        page = _launched(session, replay, address, desk)
    connections.tend(page.server)
    log.bound()
    for number, code in EXIT_CODES.items():
        signal.signal(number, lambda *_, code=code: ended.put(code))
    code = ended.get()
    _end(page, session, desk)
    return code


def _launched(session: Session | None, replay: Trace | None, address: Address, desk: Desk) -> Any:
    page = build_page(session, examples(), replay, desk)
    gc.collect()
    gc.freeze()  # a page is some million objects that stay: looking through them costs passes of the models
    if address.is_public() and not address.logins:
        print(
            "Whoever reaches this address can run prompts here; --auth-file FILE asks for a login.",
            file=sys.stderr,
        )
    print(f"The playground is at {address.url} (Ctrl-C ends it).", flush=True)
    page.launch(
        server_name=address.host,
        server_port=address.port,
        auth=list(address.logins) or None,
        quiet=True,
        prevent_thread_lock=True,
        **launch_options(session, desk, address.host, address.allow_hosts, bool(address.logins)),
    )
    return page


def _end(page: Any, session: Session | None, desk: Desk) -> None:
    """Close what is open, and do not wait long for anybody."""
    desk.line.close()
    if (close := getattr(session, "close", None)) is not None:
        close()  # the run under way ends by that, and says so to its page
        time.sleep(SECONDS_FOR_LAST_WORDS)
    logging.disable()  # whatever is cut off now is no fault
    page.server.should_exit = page.server.force_exit = True
    page.server.thread.join(SECONDS_FOR_LAST_WORDS)


def leave(code: int) -> NoReturn:
    """End the process now: threads that wait for others would keep it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
