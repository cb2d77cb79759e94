"""Plain requests of a page that is served, with headers of all kinds."""

from __future__ import annotations

import http.client
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

JSON = {"content-type": "application/json"}


def ask(
    address: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; header names with _ for -."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    try:
        connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None and "content_length" not in headers and "transfer_encoding" not in headers:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        if body is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # it was answered before it was read
                connection.send(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def post(address: str, path: str, data: Any, **headers: str) -> tuple[int, Any]:
    status, _, body = ask(
        address, "POST", path, json.dumps(data).encode(), **{"content_type": JSON["content-type"], **headers}
    )
    return status, json.loads(body)
