"""What a container leaves this process: memory and processors, by control groups of version 1 and 2, walked to the
root.

Pages of files that nobody used lately count as free: the kernel gives them back when they are asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60


def free_memory(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes that the tightest group leaves; None where none has a limit."""
    left = []
    for folder in _groups(root, own, "memory"):
        for limit_file, used_file, inactive in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None and limit < _NO_LIMIT:
                left.append(max(0, limit - max(0, used - _stat(folder / "memory.stat", inactive))))
    return min(left, default=None)


def processors(root: Path = ROOT, own: Path = OWN) -> int:
    """Processors this process may use at once: those it may run on, or what its groups' quota comes to."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, own, "cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        try:
            words = (folder / "cpu.max").read_text(encoding="ascii").split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            pass  # version 1, or "max": no limit
        if quota is not None and period and quota > 0:
            there = min(there, max(1, math.ceil(quota / period)))
    return there


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all groups around it, those of either version."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    tops = {root: "/"}
    for line in lines:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names == "":
            tops[root] = path
        elif controller in names.split(","):
            for name in (controller, names):
                if (root / name).is_dir():
                    tops[root / name] = path
    if (root / controller).is_dir():
        tops.setdefault(root / controller, "/")
    for top, path in tops.items():
        folder = top / path.strip("/")
        while folder != top and top in folder.parents:
            if folder.is_dir():  # a container may see its group under another name than its own
                yield folder
            folder = folder.parent
        yield top


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _stat(file: Path, name: str) -> int:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split(" ")[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
