"""Huge pages: what is in use moves and keeps its contents; what is only reserved stays so."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backends.openvino import huge_pages

SIZE = 8 * huge_pages.HUGE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


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


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells of its pages")
def test_memory_in_use_moves_and_reserved_memory_stays() -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1):
        pytest.skip("this kernel has no MADV_COLLAPSE")
    used, reserved = (np.frombuffer(mmap.mmap(-1, SIZE, flags=PRIVATE), np.uint8) for _ in range(2))
    used[:] = np.arange(SIZE, dtype=np.uint8)
    reserved[:: huge_pages.HUGE] = 1  # one small page in every huge one
    before = resident(reserved)
    if before > SIZE // mmap.PAGESIZE // 2:
        pytest.skip("the system gives huge pages unasked")
    moved = huge_pages.collapse()
    if not moved:
        pytest.skip("the system gave no huge pages")
    assert np.array_equal(used, np.arange(SIZE, dtype=np.uint8))
    assert huge_kilobytes(used.ctypes.data) >= (SIZE - 2 * huge_pages.HUGE) // 1024
    assert resident(reserved) == before


def test_a_system_that_cannot_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert huge_pages.collapse() == 0
