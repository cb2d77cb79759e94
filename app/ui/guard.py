"""The guard before everything: which hosts, origins, routes and bodies get in, and the headers that go out. ASGI, no
gradio here."""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
import socket
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.ui import routes
from app.ui.bodies import Bodies, RefusalError
from app.ui.desk import Desk
from app.ui.logins import Logins
from app.ui.readers import STREAM, Readers

_LOG = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
WILDCARDS = ("0.0.0.0", "::", "")
ONCE = ("origin", "sec-fetch-site", "content-type", "content-length")
"""Headers that are gone by: of two, another reader may take the other."""
LOGGED = 120
"""Characters of a fault that are logged: what was sent may be part of it."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # Gradio's page has scripts and styles in its document, and makes functions of texts; all of it comes from here.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "media-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'",
}


def allowed_hosts(host: str, more: tuple[str, ...] = ()) -> frozenset[str]:
    """The names a server that listens on `host` answers to; on every address, this machine's name too."""
    own = {socket.gethostname().lower()} if host in WILDCARDS else {host.lower()}
    return LOOPBACK | own | {name.lower() for name in more}


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        desk: Desk,
        hosts: frozenset[str] = LOOPBACK,
        any_address: bool = False,
        files: frozenset[str] = frozenset(),
        health: Callable[[], dict[str, object]] = dict,
        login: bool = False,
    ) -> None:
        """any_address: hosts written as IP addresses are let in, which no foreign name can turn into. files: paths that
        may be served. health: what `GET /healthz` says. login: one is asked for, so figures are for this machine
        alone."""
        self._app, self._desk, self._hosts, self._any_address = app, desk, hosts, any_address
        self._files, self._health, self._login = files, health, login
        self._bodies, self._posts = Bodies(app), itertools.count()
        self._logins = Logins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if message["status"] >= 500 and scope["method"] == "POST":
                    # Gradio's word for whatever a caller sent that it, or a function, refuses.
                    message = {**message, "status": 400}
                message = {**message, "headers": [*_without(message.get("headers", [])), *_HEADERS]}
            await send(message)

        try:
            await self._admitted(scope, receive, sending)
        except RefusalError as refusal:
            self._desk.figures.refused.labels("guard").inc()
            if not begun:
                await _answer(sending, refusal.status, {"detail": str(refusal)})
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:LOGGED]
            _LOG.warning("a request could not be served: %s %r: %s", scope["method"], scope["path"][:LOGGED], told)
            if not begun:
                await _answer(sending, 400, {"detail": "The playground cannot make sense of this request."})

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = self._check_host(headers)
        if any(len(headers.getlist(name)) > 1 for name in ONCE):
            raise RefusalError(400, f"A request says each of {', '.join(ONCE)} once at most.")
        method, path = scope["method"], scope["path"]
        route = routes.route(path, self._files)
        if route is None:
            raise RefusalError(404, "There is nothing here.")
        if method not in route.methods:
            raise RefusalError(405, f"{method} is not for this address.")
        if method == "POST":
            self._check_origin(headers, host)
            self._check_kind(headers, route)
        if path == "/healthz":
            await _answer(send, 200, self._health())
            return
        if path == routes.SWITCHES:
            if self._desk.switches.full:
                raise RefusalError(503, "Too many pages are open; close one.")
            await self._desk.switches.stream(receive, send)
            return
        if path == "/metrics":
            await self._figures(scope, headers, send)
            return
        scope = {**scope, "headers": [pair for pair in scope["headers"] if self._forwarded(*pair)]}
        if path.rstrip("/") == "/login":
            await self._logins.tried(
                _address(scope), lambda told: self._bodies.passed_on(scope, route.body, receive, told), send
            )
        elif method == "POST":
            await self._posted(scope, route, receive, send)
        elif self._desk.readers is not None and (stream := _stream(scope)) is not None:
            await self._read(scope, self._desk.readers, stream, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> str:
        """The host without its port."""
        names = headers.getlist("host")
        name = _host(names[0]) if len(names) == 1 else None
        if name is None or not (name in self._hosts or (self._any_address and _is_address(name))):
            raise RefusalError(421, "This playground does not answer to that name; --allow-host NAME lets it in.")
        return name

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            # Programs send none; browsers say where a request comes from.
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise RefusalError(403, "Another site's page cannot use this playground.")
            return
        parts = urlsplit(origin)
        own = headers["host"].lower()
        default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        if parts.scheme not in ("http", "https") or parts.netloc.lower() not in (own, own.removesuffix(default)):
            raise RefusalError(403, "Another site's page cannot use this playground.")

    def _check_kind(self, headers: Headers, route: routes.Route) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in route.kinds:
            raise RefusalError(415, f"This address takes {' or '.join(route.kinds)}.")

    def _forwarded(self, name: bytes, value: bytes) -> bool:
        """Whether a header may go on: what a proxy says of the host decides which address the page is told to use."""
        if name == b"x-forwarded-host":
            return _host(value.decode("latin-1")) in self._hosts
        if name == b"x-forwarded-proto":
            return value in (b"http", b"https")
        return not (name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-gradio-server", b"x-direct-url"))

    async def _read(self, scope: Scope, readers: Readers, stream: str, receive: Receive, send: Send) -> None:
        """Pass a stream on, and tell the readers whose it is and whether it is left before its end."""
        over = False

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not over:
                readers.left(stream)
            return message

        async def sending(message: Message) -> None:
            nonlocal over
            over = over or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        with readers.reading(stream):
            await self._app(scope, receiving, sending)

    async def _posted(self, scope: Scope, route: routes.Route, receive: Receive, send: Send) -> None:
        """Pass a POST on; where its answer is the run's itself, the readers are told whether somebody waits for it."""
        readers = self._desk.readers
        if readers is None or not routes.DIRECT.fullmatch(scope["path"]):
            await self._bodies.passed_on(scope, route.body, receive, send)
            return
        stream = f"post {next(self._posts)}"
        with readers.reading(stream):
            scope = {**scope, STREAM: stream}
            await self._bodies.passed_on(scope, route.body, receive, send, lambda: readers.left(stream))

    async def _figures(self, scope: Scope, headers: Headers, send: Send) -> None:
        local = _address(scope) in LOOPBACK and "x-forwarded-for" not in headers
        if self._login and not local:
            raise RefusalError(403, "These figures are for the machine the playground runs on.")
        await _answer(send, 200, self._desk.figures.text(), b"text/plain; version=0.0.4; charset=utf-8")


async def _answer(send: Send, status: int, content: object, kind: bytes = b"application/json") -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def _without(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].decode("latin-1").lower() not in HEADERS]


def _host(value: str) -> str | None:
    """The name in a Host header, None where it is none."""
    try:
        parts = urlsplit(f"//{value}")
        port = parts.port
    except ValueError:
        return None
    if port == 0 or parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _stream(scope: Scope) -> str | None:
    """Whose stream is asked for: a page's session, or the id of a program's event; None where it is no stream."""
    if scope["path"].rstrip("/") == routes.PAGE_STREAM:
        return str(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0])
    match = routes.STREAM.fullmatch(scope["path"])
    return None if match is None else str(match[1])
