"""Things made once from a model's files and kept on disk, each in a directory named by what it was made from.

Each directory holds a manifest (sizes and checksums), and one that does not match it is made again. The disk is a help,
not a need: where it is full or read-only, what was to be kept is made in a temporary folder of this run. What was not
used for longest goes when all together take too much.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from app.errors import PairError

MANIFEST = "manifest.json"
CACHE_BYTES = 64 * 10**9
"""What all directories beside each other may take."""
_WHOLE = 1 << 30
"""Bytes of a file up to which all of it is checked; of a larger one, its ends and places in between."""
_BLOCK, _BLOCKS = 1 << 20, 256
_LOG = logging.getLogger(__name__)


def fingerprint(files: Iterable[Path], *parts: str) -> str:
    """A name that changes when any file (path, size, time of change) or part does."""
    stats = [(file, file.stat()) for file in files]
    lines = [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return hashlib.sha256("\n".join([*lines, *parts]).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def filled(directory: Path, write: Callable[[Path], None]) -> Path:
    """`directory`, filled by `write` where it is not there or not whole; never half-filled, whoever else is at it.

    Where nothing can be kept, a temporary directory of the same content. Raises what `write` raises, and PairError
    where there is no room for that either.
    """
    if usable(directory):
        return directory
    try:
        _fill(directory, write)
    except OSError as error:
        _LOG.warning("%s cannot be kept (%s); it is made for this run only", directory, error.strerror)
        return _temporary(directory.name, write)
    _prune(directory.parent, directory)
    return directory


def stored(directory: Path, write: Callable[[Path], None]) -> bool:
    """Whether `write` could fill `directory`: for what is a help and can be done without. Raises what `write` raises,
    but OSError."""
    try:
        _fill(directory, write)
    except OSError as error:
        _LOG.warning("%s cannot be kept (%s); it is made at each start", directory, error.strerror)
        return False
    _prune(directory.parent, directory)
    return True


def usable(directory: Path) -> bool:
    """Whether `directory` is there and whole; it counts as used then."""
    whole = is_whole(directory)
    if whole:
        _use(directory)
    elif directory.exists():
        _LOG.warning("%s is damaged, or of an older version; it is made again", directory)
    return whole


def is_whole(directory: Path) -> bool:
    """Whether the directory holds what its manifest says."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="ascii"))
        names = {file.name for file in directory.iterdir()} - {MANIFEST}
        return names == set(manifest) and all(_checksum(directory / name) == manifest[name] for name in names)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _fill(directory: Path, write: Callable[[Path], None]) -> None:
    partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, write)
        if directory.exists():
            old = directory.with_name(f"{directory.name}.{os.getpid()}.old.partial")
            directory.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        try:
            partial.rename(directory)
        except OSError:
            if not is_whole(directory):  # else another process was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(directory: Path, write: Callable[[Path], None]) -> None:
    write(directory)
    manifest = {file.name: _checksum(file) for file in directory.iterdir()}
    (directory / MANIFEST).write_text(json.dumps(manifest), encoding="ascii")


def _temporary(name: str, write: Callable[[Path], None]) -> Path:
    try:
        directory = Path(tempfile.mkdtemp(prefix="playground-"))
        atexit.register(functools.partial(shutil.rmtree, directory, ignore_errors=True))
        write(directory)
    except OSError as error:
        raise PairError(
            f"What is made from the model ({name}) cannot be kept anywhere ({error.strerror}); make room "
            "on the disk, or "
            "name another with PLAYGROUND_MODELS or TMPDIR."
        ) from None
    return directory


def _checksum(file: Path) -> list[int]:
    """The file's size, and a checksum of its content."""
    size = file.stat().st_size
    checksum = 0
    with file.open("rb") as content:
        if size <= _WHOLE:
            while block := content.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        else:
            for number in range(_BLOCKS):
                content.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                checksum = zlib.crc32(content.read(_BLOCK), checksum)
    return [size, checksum]


def _use(directory: Path) -> None:
    with suppress(OSError):  # read-only: nothing will be removed from it either
        os.utime(directory / MANIFEST)


def _prune(cache: Path, kept: Path) -> None:
    """Remove what was not used for longest, and what ended runs left unfinished, until the rest is small enough."""
    try:
        for partial in cache.glob("*.partial"):
            process = partial.name.removesuffix(".partial").removesuffix(".old").rpartition(".")[2]
            if process.isdecimal() and not _runs(int(process)):
                shutil.rmtree(partial, ignore_errors=True)
        entries = [
            (manifest.stat().st_mtime, _size(directory), directory)
            for directory in cache.iterdir()
            if directory != kept and (manifest := directory / MANIFEST).is_file()
        ]
        total = _size(kept) + sum(size for _, size, _ in entries)
        for _, size, directory in sorted(entries):
            if total <= CACHE_BYTES:
                break
            shutil.rmtree(directory, ignore_errors=True)
            total -= size
    except OSError as error:
        _LOG.warning("%s cannot be tidied (%s)", cache, error.strerror)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
