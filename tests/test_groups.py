"""Control groups of both versions, nested, as a container sees them."""

from __future__ import annotations

import os
from pathlib import Path

from app.pairs import groups

MB = 1 << 20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def own(tmp_path: Path, text: str) -> Path:
    (tmp_path / "own").write_text(text)
    return tmp_path / "own"


def test_the_tightest_of_nested_groups_counts_and_inactive_pages_are_free(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(
        root / "a", memory__max=str(100 * MB), memory__current=str(90 * MB), memory__stat=f"inactive_file {50 * MB}\n"
    )
    write(root / "a" / "b", memory__max="max", memory__current=str(10 * MB), memory__stat="anon 1\n")
    assert groups.free_memory(root, own(tmp_path, "0::/a/b\n")) == 60 * MB
    write(root / "a" / "b", memory__max=str(30 * MB))
    assert groups.free_memory(root, own(tmp_path, "0::/a/b\n")) == 20 * MB
    assert groups.free_memory(root, own(tmp_path, "0::/somewhere/else\n")) is None


def test_version_1_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    limit, used = str(80 * MB), str(70 * MB)
    write(
        root / "memory" / "docker" / "x",
        memory__limit_in_bytes=limit,
        memory__usage_in_bytes=used,
        memory__stat=f"total_inactive_file {20 * MB}\n",
    )
    write(root / "memory", memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="1")
    assert groups.free_memory(root, own(tmp_path, "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n")) == 30 * MB
    write(root / "cpu,cpuacct" / "docker" / "x", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert groups.processors(root, own(tmp_path, "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n")) == 1


def test_a_quota_of_processors_is_honoured(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, cpu__max="max 100000\n")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert groups.processors(root, own(tmp_path, "0::/\n")) == there
    write(root / "c", cpu__max="50000 100000\n")
    assert groups.processors(root, own(tmp_path, "0::/c\n")) == 1
    assert groups.processors(tmp_path / "absent", tmp_path / "absent") == there
