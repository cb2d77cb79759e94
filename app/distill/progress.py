"""A progress line with the time left, on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """A bar that redraws itself on a terminal, and writes a line every half minute elsewhere."""

    def __init__(self, label: str, total: int):
        self.label, self.total, self.count, self.before = label, total, 0, 0
        self.started = self.drawn = time.monotonic()
        self.live = sys.stderr.isatty()

    def resume(self, count: int) -> None:
        """Counts what an earlier sitting did, without crediting this one's speed with it."""
        self.count = self.before = count

    def step(self, note: str = "", amount: int = 1) -> None:
        self.count += amount
        now = time.monotonic()
        if now - self.drawn >= (0.2 if self.live else 30):
            self.drawn = now
            self._draw(now, note)

    def close(self, note: str = "") -> None:
        self._draw(time.monotonic(), note)
        if self.live:
            sys.stderr.write("\n")

    def _draw(self, now: float, note: str) -> None:
        spent = now - self.started
        made = self.count - self.before
        left = spent / made * (self.total - self.count) if made else float("nan")
        share = self.count / self.total if self.total else 1.0
        bar = "#" * round(24 * share)
        line = f"{self.label} [{bar:<24}] {self.count}/{self.total}  {_clock(spent)} gone, {_clock(left)} left  {note}"
        sys.stderr.write(f"\r\x1b[K{line}" if self.live else f"{line}\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    if seconds != seconds:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
