"""Whether a model fits: bytes it will hold against bytes that are free. Stdlib only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.errors import PairError
from app.pairs import groups


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of a model: its weights, and the caches of its sequences at their longest. peak: what loading takes at
    most, in weights, beside pages of files that the system takes back where it needs them."""

    name: str
    weights: int
    caches: int
    peak: float = 1.0


def most(needs: Iterable[Need]) -> int:
    """Bytes that these models need at most: loaded one after the other, then run."""
    held = caches = largest = 0
    for need in needs:
        largest = max(largest, held + int(need.peak * need.weights))
        held += need.weights
        caches += need.caches
    return max(largest, held + caches)


def check(needs: Iterable[Need], free: int | None, n_positions: int, where: str = "memory") -> None:
    """Raise PairError if these models together need more than `free` bytes (None: not known, nothing is refused)."""
    needs = list(needs)
    weights, caches = sum(need.weights for need in needs), sum(need.caches for need in needs)
    needed = most(needs)
    if free is None or needed <= free:
        return
    parts = ", ".join(f"{need.name} {_gb(need.weights)}" for need in needs)
    remedy = "choose a smaller --dtype or a smaller model"
    if weights < free < weights + caches:
        fitting = max(1, int(n_positions * (free - weights) / caches)) // 256 * 256
        remedy = f"choose --n-positions {fitting}" if fitting else remedy
    raise PairError(
        f"This pair needs about {_gb(needed)} ({parts}, caches of {n_positions} positions {_gb(caches)}) and "
        f"{_gb(free)} of {where} are free; {remedy}."
    )


def free_memory() -> int | None:
    """Bytes of main memory this process may still take, the limit of its container included; None where not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: all there is, less a fifth
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 4 // 5
        except (ValueError, OSError):
            return None
    left = groups.free_memory()
    return free if left is None else min(free, left)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
