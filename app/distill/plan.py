"""What `distill all` is told: how long it has, how the target is to write, and where what happened is noted."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.distill.jobs import Sizes


@dataclass(frozen=True, slots=True)
class Plan:
    """minutes: for all of it. writing: share of them in which the target writes. rows, steps: dialogues at once, and
    steps between two looks of the host. tokens: read at most. plain, single: shares of the training's time for a draft
    that reads tokens alone, and for one of a single layer. layers: of the target, to start from. kept: ids the output
    layer covers. processes: helpers beside this one. texts: a folder in which what the target writes is kept, so that
    another run begins with it. flash: see `Writer`. ablation: drawn tokens on which drafts without one ingredient each
    are trained afterwards; 0 for none."""

    minutes: float
    out: Path
    rows: int
    steps: int
    tokens: int
    sizes: Sizes
    writing: float = 0.3
    plain: float = 0.0
    single: float = 0.0
    layers: tuple[int, ...] = (0, 1)
    kept: int = 8192
    processes: int = 0
    seed: int = 0
    texts: Path | None = None
    flash: bool = True
    ablation: int = 0


class Log:
    """Lines of JSON with the seconds since the begin, in a file and on standard error."""

    def __init__(self, path: Path) -> None:
        self._path, self._began = path, time.monotonic()

    @property
    def minutes(self) -> float:
        """Since the begin."""
        return (time.monotonic() - self._began) / 60

    def note(self, **entry: Any) -> None:
        line = json.dumps({"at": round(60 * self.minutes, 1), **entry})
        print(line, file=sys.stderr, flush=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
