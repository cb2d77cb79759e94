"""Huge pages: what is in use moves and keeps its contents; what is only reserved stays so."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends import huge_pages

SIZE = 8 * huge_pages.HUGE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
HUGE_PAGES, NO_HUGE_PAGES = 14, 15  # MADV_HUGEPAGE, MADV_NOHUGEPAGE: Linux


def huge_kilobytes(address: int) -> int:
    """Of the mapping at `address`, what lies in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            begin, end = (int(bound, 16) for bound in words[0].split("-"))
            inside = begin <= address < end
        elif inside and words[0] == "AnonHugePages:":
            return int(words[1])
    raise AssertionError(f"no mapping at {address:#x}")


def resident(memory: NDArray[np.uint8]) -> int:
    """Pages of `memory` that are there; the process's own total moves with what other threads do."""
    pages = np.zeros(len(memory) // mmap.PAGESIZE, np.uint8)
    assert not ctypes.CDLL(None).mincore(
        ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(len(memory)), pages.ctypes.data_as(ctypes.c_void_p)
    )
    return int((pages & 1).sum())


def mapping(step: int = 1) -> NDArray[np.uint8]:
    """SIZE bytes, every `step`-th written, that the system leaves in small pages, however it is set."""
    memory = mmap.mmap(-1, SIZE, flags=PRIVATE)
    # while it is filled only: what is marked so is never moved into huge pages either
    memory.madvise(NO_HUGE_PAGES)
    array = np.frombuffer(memory, np.uint8)
    array[::step] = np.arange(0, SIZE, step).astype(np.uint8)
    memory.madvise(HUGE_PAGES)
    return array


def system_collapses() -> bool:
    """Whether the system moves a mapping into huge pages when it is asked for one, by the system's own call."""
    memory = mapping()
    begin = -(-memory.ctypes.data // huge_pages.HUGE) * huge_pages.HUGE
    call = ctypes.CDLL(None).madvise
    return bool(call(ctypes.c_void_p(begin), ctypes.c_size_t(huge_pages.HUGE), huge_pages.COLLAPSE) == 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of its pages")
def test_memory_in_use_moves_and_reserved_memory_stays() -> None:
    if not system_collapses():
        pytest.skip("this system has no huge pages to give (Linux before 6.1, or none free)")
    used, reserved = mapping(), mapping(huge_pages.HUGE)  # of the second, one small page in every huge one
    before = resident(reserved)
    assert before == SIZE // huge_pages.HUGE
    assert huge_pages.collapse() >= SIZE - 2 * huge_pages.HUGE
    assert np.array_equal(used, np.arange(SIZE, dtype=np.uint8))
    assert huge_kilobytes(used.ctypes.data) >= (SIZE - 2 * huge_pages.HUGE) // 1024
    assert resident(reserved) == before


def test_a_system_that_cannot_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert huge_pages.collapse() == 0
