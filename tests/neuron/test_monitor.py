"""neuron-monitor's reports, read as a stream: per core and in all, of this process only."""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.neuron import monitor as neuron_monitor
from app.neuron.monitor import CoreUse, MemoryMonitor, MemoryReading, Report, parse_report

REPORTS = (Path(__file__).parent / "fixtures" / "neuron_monitor.jsonl").read_text().splitlines()
MANY_CORES = (Path(__file__).parent / "fixtures" / "neuron_monitor_trn1_32xlarge.jsonl").read_text()
OURS = 4242


def eventually(monitor: MemoryMonitor, condition: Callable[[MemoryReading], bool]) -> MemoryReading:
    """The first reading that fulfils the condition; how long it takes is the machine's business."""
    for _ in range(600):
        if condition(reading := monitor.read()):
            return reading
        time.sleep(0.05)
    raise AssertionError(f"still {reading} after half a minute")


def tool(folder: Path, code: str) -> str:
    """A stand-in for neuron-monitor, as a program of its own."""
    path = folder / "neuron-monitor"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_a_report_is_read_per_core() -> None:
    reading = parse_report(REPORTS[3], OURS).reading
    core = {"tensors": 6442450944, "constants": 65536, "model_code": 402653184}
    core |= {"model_shared_scratchpad": 268435456, "runtime_memory": 2097152}
    assert reading is not None
    assert reading.cores == (CoreUse(0, **core), CoreUse(1, **core))
    assert reading.cores[0].total == sum(core.values())
    assert reading.total == 2 * sum(core.values())
    assert reading.on_device


def test_other_processes_are_not_counted() -> None:
    assert parse_report(REPORTS[0], OURS) == parse_report(REPORTS[1], OURS) == Report(present=False)
    beside_another = parse_report(REPORTS[2], OURS).reading
    assert beside_another is not None
    assert beside_another.total == sum(core.total for core in beside_another.cores) == 2 * 1108348928


def test_cores_are_in_numerical_order() -> None:
    reading = parse_report(MANY_CORES, OURS).reading
    assert reading is not None
    assert [core.core for core in reading.cores] == list(range(32))
    assert [core.tensors - reading.cores[0].tensors for core in reading.cores] == list(range(32))


@pytest.mark.parametrize("line", ["", "neuron-monitor: no devices", "[]", "null", "{}"])
def test_what_is_no_report_says_nothing(line: str) -> None:
    assert parse_report(line, OURS) == Report(present=None)


def entry(pid: object = OURS, tag: object = None, **used: Any) -> dict[str, Any]:
    """A process's part of a report; used: below `neuron_runtime_used_bytes`."""
    memory = {"neuron_runtime_used_bytes": used} if used else None
    return {"pid": pid, "neuron_runtime_tag": tag, "report": {"memory_used": memory}}


def report(*entries: object) -> str:
    return json.dumps({"neuron_runtime_data": list(entries)})


def breakdown(**cores: object) -> dict[str, Any]:
    return {"neuroncore_memory_usage": {name.strip("_"): use for name, use in cores.items()}}


@pytest.mark.parametrize(
    "ours",
    [
        {"pid": OURS, "error": "denied"},
        {"pid": OURS, "report": None},
        {"pid": OURS, "report": {}},
        {"pid": OURS, "report": {"memory_used": None}},
        {"pid": OURS, "report": {"memory_used": {"error": "x"}}},
        entry(neuron_device=None, usage_breakdown=None),
    ],
)
def test_a_report_without_sizes_is_of_a_process_that_is_there(ours: dict[str, Any]) -> None:
    assert parse_report(report(ours), OURS) == Report(present=True)


def test_either_half_of_the_sizes_is_enough() -> None:
    total_alone = parse_report(report(entry(neuron_device=700, usage_breakdown=None)), OURS).reading
    assert total_alone == MemoryReading(700, on_device=True)
    assert total_alone.unattributed == 700
    cores_alone = parse_report(report(entry(neuron_device=None, usage_breakdown=breakdown(_0={"tensors": 5}))), OURS)
    assert cores_alone.reading == MemoryReading(5, (CoreUse(0, tensors=5),), on_device=True)


def test_a_null_among_the_sizes_counts_nothing() -> None:
    cores = breakdown(_0={"tensors": 5, "constants": None}, _1=None, total=7)
    reading = parse_report(report(entry(neuron_device=5, usage_breakdown=cores)), OURS).reading
    assert reading == MemoryReading(5, (CoreUse(0, tensors=5),), on_device=True)


@pytest.mark.parametrize("broken", [None, 7, "denied", {}, {"pid": None}, {"report": 3}, []])
def test_a_broken_entry_hides_no_other(broken: object) -> None:
    ours = entry(neuron_device=700)
    for entries in ((broken, ours), (ours, broken)):
        assert parse_report(report(*entries), OURS).reading == MemoryReading(700, on_device=True)


def test_all_entries_of_a_process_count() -> None:
    first = entry(neuron_device=10, usage_breakdown=breakdown(_0={"tensors": 4}, _1={"tensors": 6}))
    second = entry(neuron_device=5, usage_breakdown=breakdown(_1={"tensors": 1, "constants": 4}))
    reading = parse_report(report(first, entry(1, neuron_device=99), second), OURS).reading
    cores = (CoreUse(0, tensors=4), CoreUse(1, tensors=7, constants=4))
    assert reading == MemoryReading(15, cores, on_device=True)


def test_in_a_container_the_process_is_known_by_its_tag() -> None:
    """The pid is another one's outside; the tag is by default the pid as the process sees it."""
    outside = entry(31337, str(OURS), neuron_device=700)
    other = entry(31338, "7", neuron_device=99)
    assert parse_report(report(other, outside), OURS).reading == MemoryReading(700, on_device=True)
    named = entry(31337, "playground", neuron_device=700)
    assert parse_report(report(other, named), OURS, "playground").reading == MemoryReading(700, on_device=True)
    assert parse_report(report(other, named), OURS) == Report(present=False)
    assert parse_report(report(other, outside), OURS, "playground").reading is not None  # a runtime that takes no tag


def test_the_engine_is_found_where_it_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the tag of the page, which cannot know its pid outside of a container."""
    monkeypatch.delenv(neuron_monitor.TAG_VARIABLE, raising=False)
    line = report(entry(31337, neuron_monitor.process_tag(), neuron_device=700))
    monitor = MemoryMonitor(tool(tmp_path, f"print({line!r}, flush=True)\ntime.sleep(600)"))
    try:
        assert eventually(monitor, lambda reading: reading.on_device).total == 700
    finally:
        monitor.close()
    monkeypatch.setenv(neuron_monitor.TAG_VARIABLE, "mine")
    assert neuron_monitor.process_tag() == "mine"


def test_elsewhere_it_is_the_engines_memory_that_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(neuron_monitor, "USUAL_PLACE", tmp_path / "neuron-monitor")
    assert MemoryMonitor(main_memory=lambda: 12345).read().total == 12345


def test_the_pid_goes_before_the_tag() -> None:
    """Two processes that were given one tag are told apart where the pid tells them."""
    shared = (entry(OURS, "both", neuron_device=1), entry(OURS + 1, "both", neuron_device=2))
    assert parse_report(report(*shared), OURS, "both").reading == MemoryReading(1, on_device=True)


def test_a_purpose_that_is_new_is_shown_as_other() -> None:
    use = {"tensors": 5, "collectives": 30, "driver": 4}
    reading = parse_report(report(entry(neuron_device=60, usage_breakdown=breakdown(_0=use))), OURS).reading
    assert reading is not None
    assert reading.cores == (CoreUse(0, tensors=5, other=34),)
    assert reading.unattributed == 60 - 39


def test_a_purpose_the_tool_does_not_name_counts_nothing() -> None:
    report = json.loads(REPORTS[3])
    used = report["neuron_runtime_data"][0]["report"]["memory_used"]["neuron_runtime_used_bytes"]
    del used["usage_breakdown"]["neuroncore_memory_usage"]["1"]["model_shared_scratchpad"]
    reading = parse_report(json.dumps(report), OURS).reading
    assert reading is not None
    assert reading.cores[0].total - reading.cores[1].total == 268435456


def test_a_report_without_sizes_takes_nothing_back(tmp_path: Path) -> None:
    silent = [report(entry()), "neuron-monitor: warning", "{"]
    go = tmp_path / "read"
    code = f"""
for line in {[REPORTS[3], *silent]!r}:
    print(line, flush=True)
open({str(go)!r}, "w").close()
time.sleep(600)
"""
    monitor = MemoryMonitor(tool(tmp_path, code), OURS)
    try:
        eventually(monitor, lambda reading: reading.on_device and go.exists())
        for _ in range(20):
            assert monitor.read().total == 2 * 7115702272
            time.sleep(0.01)
    finally:
        monitor.close()


def test_the_stream_is_followed_and_ended(tmp_path: Path) -> None:
    """Before the first report of this process, main memory; then the device's; after the tool's end, main memory."""
    go = tmp_path / "go"
    code = f"""
from pathlib import Path
for line in {REPORTS[:2]!r}:
    print(line, flush=True)
while not Path({str(go)!r}).exists():
    time.sleep(0.02)
for line in {REPORTS[2:]!r}:
    print(line, flush=True)
time.sleep(600)
"""
    monitor = MemoryMonitor(tool(tmp_path, code), OURS)
    try:
        first = monitor.read()
        assert not first.on_device
        assert "not reported on this process yet" in first.note
        assert first.total > 10**6
        go.touch()
        reading = eventually(monitor, lambda reading: reading.total == 2 * 7115702272)
        assert (reading.on_device, reading.note) == (True, "")
    finally:
        monitor.close()
    after = eventually(monitor, lambda reading: not reading.on_device)
    assert "has ended" in after.note
    monitor.close()


def test_a_process_that_left_the_device_is_not_shown_on_it(tmp_path: Path) -> None:
    code = f"for line in {[REPORTS[3], REPORTS[1]]!r}:\n    print(line, flush=True)\ntime.sleep(600)"
    monitor = MemoryMonitor(tool(tmp_path, code), OURS)
    try:
        monitor.read()
        eventually(monitor, lambda reading: not reading.on_device)
    finally:
        monitor.close()


def test_without_the_tool_the_card_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(neuron_monitor, "USUAL_PLACE", tmp_path / "neuron-monitor")
    monitor = MemoryMonitor()
    reading = monitor.read()
    assert not reading.on_device
    assert reading.total > 10**6
    assert "neuron-monitor is not installed here" in reading.note
    monitor.close()


def test_the_tool_is_found_in_its_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    code = f"print({REPORTS[3]!r}, flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(neuron_monitor, "USUAL_PLACE", Path(tool(tmp_path, code)))
    monitor = MemoryMonitor(pid=OURS)
    try:
        eventually(monitor, lambda reading: reading.on_device)
    finally:
        monitor.close()


def test_a_tool_that_cannot_start_is_said(tmp_path: Path) -> None:
    (tmp_path / "neuron-monitor").write_text("not a program")
    reading = MemoryMonitor(str(tmp_path / "neuron-monitor")).read()
    assert "could not be started" in reading.note
