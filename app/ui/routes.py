"""Which of the server's routes this page and its programs use, and how much each may be sent; all others do not exist.
No gradio here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.record.trace import MAX_TRACE_BYTES

API = "/gradio_api"
BODY = 1024 * 1024
"""Bytes of a request's body."""
TRACE_BODY = 2 * MAX_TRACE_BYTES
"""Of one that may hold a trace: a trace is JSON already, and is quoted as a JSON string."""
JSON = ("application/json",)
FORM = ("application/x-www-form-urlencoded", "multipart/form-data")
SWITCHES = "/switches"
"""A page's stream of which pair is loaded."""
_NAME = r"[A-Za-z0-9_]+"


@dataclass(frozen=True, slots=True)
class Route:
    """methods; body: bytes at most; kinds: content types of a body."""

    methods: tuple[str, ...]
    body: int = 0
    kinds: tuple[str, ...] = JSON


_READ = Route(("GET", "HEAD"))
_EXACT: dict[str, Route] = {
    **dict.fromkeys(
        (
            "/",
            "/config",
            "/theme.css",
            "/favicon.ico",
            "/manifest.json",
            "/robots.txt",
            "/logout",
            "/login_check",
            "/healthz",
            "/metrics",
            *(
                f"{API}/{name}"
                for name in ("info", "openapi.json", "app_id", "theme.css", "startup-events", "queue/data")
            ),
            *(f"{API}/{name}" for name in ("queue/status", "user", "login_check")),
        ),
        _READ,
    ),
    SWITCHES: Route(("GET",)),
    "/login": Route(("POST",), 8192, FORM),
    f"{API}/component_server": Route(("POST",), TRACE_BODY),
    f"{API}/queue/join": Route(("POST",), TRACE_BODY),
    f"{API}/cancel": Route(("POST",), BODY),
    f"{API}/reset": Route(("POST",), BODY),
}
_PATTERNS: tuple[tuple[re.Pattern[str], Route], ...] = (
    (re.compile(r"/(assets|static|svelte)/[\w@./+~-]+"), _READ),
    (re.compile(rf"{API}/heartbeat/{_NAME}"), _READ),
    (re.compile(rf"{API}/call/(v2/)?{_NAME}/{_NAME}"), _READ),
    (re.compile(rf"{API}/call/(v2/)?export"), Route(("POST",), TRACE_BODY)),
    (re.compile(rf"{API}/call/(v2/)?{_NAME}"), Route(("POST",), BODY)),
    (re.compile(rf"{API}/run/{_NAME}"), Route(("POST",), TRACE_BODY)),
)
STREAM = re.compile(rf"{API}/call/(?:v2/)?{_NAME}/({_NAME})")
"""A program's stream; the group is its event."""
DIRECT = re.compile(rf"{API}/run/{_NAME}/?")
"""Calls that are answered once their function is."""
PAGE_STREAM = f"{API}/queue/data"


def route(path: str, files: frozenset[str] = frozenset()) -> Route | None:
    """The route of a path, None where there is none. files: the paths of the only files that are served."""
    path = path.rstrip("/") or "/"
    if (exact := _EXACT.get(path)) is not None:
        return exact
    if path.startswith(f"{API}/file="):
        return _READ if path.removeprefix(f"{API}/file=") in files else None
    if ".." in path:
        return None
    return next((known for pattern, known in _PATTERNS if pattern.fullmatch(path)), None)
