"""The boundary around what a browser can call beside runs: whatever is raised behind it becomes a sentence. No gradio
here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

from app.ui.desk import Desk

_AT_ONCE = 2
"""Traces read at once: reading a large one takes seconds of a processor."""


class Boundary:
    """Functions made total. They run in threads of their own, so that large traces keep nothing else waiting."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="traces")

    def answer(self, function: Callable[[Any], dict[str, Any]]) -> Callable[..., Awaitable[dict[str, Any]]]:
        """The function, answering {"error": sentence} where it raises. Called without an argument, it gets None."""

        @wraps(function)
        async def answered(argument: Any = None) -> dict[str, Any]:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, argument)
            except Exception as error:
                return {"error": self._desk.sentence(error)}

        return answered

    def shown(self, function: Callable[..., str], fault: Callable[[str], str]) -> Callable[..., Awaitable[str]]:
        """The function, showing `fault(sentence)` where it raises."""

        @wraps(function)
        async def total(*arguments: Any) -> str:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*arguments))
            except Exception as error:
                return fault(self._desk.sentence(error))

        return total
