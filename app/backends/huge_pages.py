"""The pages of memory under weights: huge ones, and none that are held for nothing.

A decoding pass reads every weight once, so it meets a page of 4 KB 35,000 times for 139 MB, and in a virtual machine
each of those is a long walk; the engine's allocator asks for no huge ones.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HUGE = 2 << 20  # bytes: x86-64, and AArch64 with pages of 4 KB
COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1


def give_back(folder: Path) -> None:
    """Take the pages of files mapped from this folder out of this process's memory.

    They are read again when touched; what an engine has copied into a layout of its own it never touches again, but it
    keeps the file mapped. Nobody may unmap one meanwhile: something else may lie there then.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return  # not Linux
    libc = ctypes.CDLL(None)
    for line in maps:
        span, access, _, _, _, *name = line.split(maxsplit=5)
        if not name or "w" in access or not name[0].startswith(f"{folder}/"):
            continue
        begin, end = (int(bound, 16) for bound in span.split("-"))
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def trim() -> None:
    """Give what was freed back to the system: an allocator keeps it, and then it is held beside what comes next."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


@contextmanager
def given_back(folder: Path | None, more: Callable[[], None], seconds: float = 0.05) -> Iterator[None]:
    """Give pages of a folder's files back all the while, and at the end: whoever copies weights out of a file holds
    them once, not twice. None: no file is mapped from there. more: gives others back."""
    done = threading.Event()

    def give() -> None:
        if folder is not None:
            give_back(folder)
        more()

    def work() -> None:
        while not done.wait(seconds):
            give()

    thread = threading.Thread(target=work, name="pages given back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        give()


def collapse() -> int:
    """Move this process's private memory into huge pages, where all of a huge page is in use; contents stay.

    Returns the bytes moved or found there; 0 where the system cannot (not Linux, an old kernel, no memory in one
    piece): then everything works as before, slower.
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    libc = ctypes.CDLL(None)
    moved = 0
    for line in maps:
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access != "rw-p" or inode != "0" or (name and name[0] != "[heap]"):
            continue
        begin, end = (int(bound, 16) for bound in span.split("-"))
        begin, end = -(-begin // HUGE) * HUGE, end // HUGE * HUGE
        if begin >= end:
            continue
        resident = np.zeros((end - begin) // mmap.PAGESIZE, np.uint8)
        if libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), resident.ctypes.data_as(ctypes.c_void_p)):
            continue  # unmapped since, by another thread
        # memory that was only reserved (KV cache, stacks) stays so
        full = (resident.reshape(-1, HUGE // mmap.PAGESIZE) & 1).all(axis=1)
        edges = np.flatnonzero(np.diff(full, prepend=False, append=False))
        for first, last in edges.reshape(-1, 2):  # a call a run: each call waits for every processor once
            address, size = begin + int(first) * HUGE, int(last - first) * HUGE
            if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), COLLAPSE) == 0:
                moved += size
    return moved
