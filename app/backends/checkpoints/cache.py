"""Things made once from a model's files and kept on disk, each in a directory named by what it was made from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def fingerprint(files: Iterable[Path], *parts: str) -> str:
    """A name that changes when any file (path, size, time of change) or part does."""
    stats = [(file, file.stat()) for file in files]
    lines = [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return hashlib.sha256("\n".join([*lines, *parts]).encode()).hexdigest()[:24]


def filled(directory: Path, write: Callable[[Path], None]) -> Path:
    """`directory`, filled by `write` if it is not there yet; never half-filled, whoever else is at it."""
    if directory.exists():
        return directory
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        try:
            partial.rename(directory)
        except OSError:
            if not directory.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory
