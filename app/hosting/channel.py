"""Lines of JSON over a socket, both ways, with a time limit: how the page and an engine's process talk. Stdlib only."""

from __future__ import annotations

import json
import socket
from typing import Any

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes; no round comes near it."""
_CHUNK = 1 << 16


class Channel:
    """One end. Every method raises EOFError once the other end is gone, a sending one TimeoutError where it was too
    slow."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._held = bytearray()

    def send(self, line: str, seconds: float | None = None) -> None:
        """Write a line, which holds no newline."""
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(line.encode() + b"\n")
        except TimeoutError:
            raise
        except OSError:
            raise EOFError from None

    def say(self, message: dict[str, Any], seconds: float | None = None) -> None:
        """Write a message."""
        self.send(json.dumps(message, separators=(",", ":")), seconds)

    def line(self) -> str:
        """The next line, however long it takes."""
        line = self.line_within(None)
        assert line is not None
        return line

    def line_within(self, seconds: float | None) -> str | None:
        """The next line; None where it took longer. Nothing of it is lost by that: it goes on where it was."""
        self._socket.settimeout(seconds)
        searched = 0
        while (end := self._held.find(b"\n", searched)) < 0:
            searched = len(self._held)
            try:
                chunk = self._socket.recv(_CHUNK)
            except TimeoutError:
                return None
            except OSError:
                chunk = b""
            if not chunk or searched > LONGEST_LINE:
                raise EOFError
            self._held += chunk
        line = self._held[:end].decode()
        del self._held[: end + 1]
        return line

    def message(self) -> dict[str, Any]:
        """The next line, which is a message, however long it takes."""
        message = self.message_within(None)
        assert message is not None
        return message

    def message_within(self, seconds: float | None) -> dict[str, Any] | None:
        """The next line, which is a message; None where it took longer."""
        line = self.line_within(seconds)
        if line is None:
            return None
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def close(self) -> None:
        self._socket.close()
