"""Numbered files of finished work: a stage that is stopped goes on where its last shard ended.

A shard is written beside its final name and then renamed, so a file that exists is whole.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import RequestError

Arrays = dict[str, NDArray[Any]]


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes one shard, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append(folder: Path, arrays: Mapping[str, NDArray[Any]], stem: str = "shard") -> Path:
    """Writes the next shard of `folder` and returns its path."""
    taken = [int(path.stem.rsplit("-", 1)[1]) for path in folder.glob(f"{stem}-*.npz")]
    path = folder / f"{stem}-{max(taken, default=-1) + 1:05d}.npz"
    write(path, arrays)
    return path


def paths(folder: Path, stem: str = "*") -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob(f"{stem}-[0-9][0-9][0-9][0-9][0-9].npz"))


def read(path: Path) -> Arrays:
    """Every array of one shard. Raises RequestError where it is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} cannot be read ({error}); delete it, or choose another --work.") from None


def claim(folder: Path, owner: str) -> None:
    """Mark whose texts a folder keeps: a draft that learnt from another target's would be taught wrongly.

    Raises RequestError where they are another's, or nobody wrote down whose, or nothing can be written there.
    """
    mark = folder / "target.txt"
    try:
        if paths(folder):
            written = (
                mark.read_text(encoding="utf-8", errors="replace").strip() if mark.exists() else "an unknown target"
            )
            if written != owner:
                raise RequestError(
                    f"{folder} keeps what {written} wrote, and this target is {owner}; choose another --work, or "
                    "delete that folder."
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{owner}\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{folder} cannot be used ({error.strerror}); choose another --work.") from None
