"""The report of `bench gpu`: one part after the other, each written down as soon as it is measured."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
AFTER = 50.0  # seconds a part may go on beyond the budget within which it began
LONGEST = 120.0  # seconds of one part


class PartTooLong(Exception):  # noqa: N818 - names what happened
    """A part took longer than it may; the others go on."""


@dataclass(slots=True)
class Report:
    """What was measured so far, and where it is written. budget: seconds after which no part begins."""

    path: Path | None
    budget: float
    begin: float = field(default_factory=time.perf_counter)
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    def part(
        self,
        name: str,
        measure: Callable[[], T],
        needs: float = 0.0,
        most: float = LONGEST,
        shown: Callable[[T], Any] = lambda value: value,
    ) -> T | None:
        """Measure and write down as `shown`; None where it failed or took more than `most` seconds, or where fewer are
        left than it needs."""
        if self.seconds + needs > self.budget:
            self.parts[name] = {"left_out": f"{self.seconds:.0f} of {self.budget:.0f} seconds were used"}
            return None
        started, value = self.seconds, None
        try:
            with within(min(most, self.budget + AFTER - started)):
                value = measure()
                self.parts[name] = shown(value)
        except Exception as error:  # one part's fault must not cost the others
            value = None
            self.parts[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(f"{self.seconds:6.1f} s  {name}: {json.dumps(self.parts[name])[:300]}", file=sys.stderr, flush=True)
        self.parts.setdefault("seconds", {})[name] = round(self.seconds - started, 2)
        self.write()
        return value

    def missing(self) -> dict[str, str]:
        """By part, why there are no figures of it."""
        keys = ("failed", "left_out")
        return {
            name: str(part[key])
            for name, part in self.parts.items()
            if isinstance(part, dict)
            for key in keys
            if key in part
        }

    def write(self) -> None:
        if self.path is not None:
            self.path.write_text(json.dumps(self.parts, indent=1) + "\n", encoding="utf-8")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise PartTooLong in the body once so many seconds have passed; on the main thread of POSIX only."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(_: int, __: FrameType | None) -> None:
        raise PartTooLong(f"it took longer than {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
