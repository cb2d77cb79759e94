"""A log that whoever sends requests cannot fill: one line for each fault, and so many lines a minute."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any

LINES_A_MINUTE = 60
LONGEST_LINE = 400


class Bounded(logging.Filter):
    """Makes a record one line, and leaves out what is too many; how many were left out is told in the next minute."""

    def __init__(self, lines_a_minute: int = LINES_A_MINUTE) -> None:
        super().__init__()
        self._most, self._since, self._count, self._left_out = lines_a_minute, 0.0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._since >= 60:
            self._since, self._count = now, 0
        self._count += 1
        if self._count > self._most:
            self._left_out += 1
            return False
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}: {fault(record.exc_info[1], record.exc_info[2])}"
        if self._left_out:
            message = f"({self._left_out} lines were left out) {message}"
            self._left_out = 0
        record.msg, record.args = " ".join(message.split())[:LONGEST_LINE], None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


def fault(error: BaseException, where: TracebackType | None) -> str:
    """An exception in one line: its kind, its message, and the place it was raised at."""
    frames = traceback.extract_tb(where)
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{at}"


class OneLineTraceback:
    """Takes the place of the module `traceback` where a library prints whole tracebacks of what its callers sent."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def print_exc(self, *_: Any, **__: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            self._log.warning("a call was refused: %s", fault(error, error.__traceback__))

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)


def bound(lines_a_minute: int = LINES_A_MINUTE) -> None:
    """Bound the log of this process: its handlers, uvicorn's, and what Gradio prints by itself."""
    import gradio.queueing
    import gradio.routes

    one_line = OneLineTraceback(logging.getLogger("app.ui"))
    gradio.queueing.traceback = gradio.routes.traceback = one_line  # type: ignore[attr-defined, assignment]
    bounded = Bounded(lines_a_minute)
    for name in (None, "uvicorn", "uvicorn.error", "uvicorn.access"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(bounded)
