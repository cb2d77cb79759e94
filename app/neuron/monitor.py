"""Live memory of this process: on the NeuronCores where `neuron-monitor` runs, in main memory elsewhere. Stdlib only.

`neuron-monitor` prints one JSON report a line, every five seconds, about every process that uses the device. Only
this process's part is read. Format: AWS Neuron documentation, Neuron Monitor User Guide.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from app.machine import process_memory

TOOL = "neuron-monitor"
USUAL_PLACE = Path("/opt/aws/neuron/bin/neuron-monitor")  # not on every shell's PATH
TAG_VARIABLE = "NEURON_PROCESS_TAG"  # what the runtime tells neuron-monitor of a process, beside its pid


@dataclass(frozen=True, slots=True)
class CoreUse:
    """Bytes of device memory this process holds on one NeuronCore, by purpose; other: of purposes that are not known
    here."""

    core: int
    tensors: int = 0
    constants: int = 0
    model_code: int = 0
    model_shared_scratchpad: int = 0
    runtime_memory: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, purpose) for purpose in PURPOSES)


PURPOSES = tuple(field.name for field in fields(CoreUse) if field.name != "core")
_NAMED = PURPOSES[:-1]


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes in use by this process. cores: those that are told one by one; note: why the device's memory is not
    shown."""

    total: int
    cores: tuple[CoreUse, ...] = ()
    note: str = ""
    on_device: bool = False

    @property
    def unattributed(self) -> int:
        """Bytes of the device's total that no core is told to hold."""
        return max(0, self.total - sum(core.total for core in self.cores)) if self.on_device else 0


@dataclass(frozen=True, slots=True)
class Report:
    """What one line of neuron-monitor says of a process. present: whether it is on the device, None where the line does
    not tell; reading is None where it tells no sizes."""

    present: bool | None
    reading: MemoryReading | None = None


def process_tag() -> str:
    """The name under which neuron-monitor knows this process and those it starts: a pid is not enough, neither on a
    machine with containers, nor where the engine is a process of its own."""
    return os.environ.get(TAG_VARIABLE) or f"playground-{platform.node()}-{os.getpid()}"


def parse_report(line: str, pid: int, tag: str | None = None) -> Report:
    """What a line says of the process `pid`.

    In a container its pid is another one's outside, which is what neuron-monitor gives; then it is known by its tag:
    NEURON_PROCESS_TAG, by default the pid as the process sees it. A process may have several entries: they add up.
    """
    try:
        entries = json.loads(line)["neuron_runtime_data"]
    except (ValueError, KeyError, TypeError):
        return Report(None)
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    own = [entry for entry in entries if entry.get("pid") == pid]
    if not own:
        names = (str(pid), tag)
        own = [entry for entry in entries if str(entry.get("neuron_runtime_tag", "")) in names]
    readings = [reading for entry in own if (reading := _reading(entry)) is not None]
    if not readings:
        return Report(bool(own))
    return Report(True, _added(readings))


def _reading(entry: dict[str, Any]) -> MemoryReading | None:
    """The sizes in one process's entry; None where it has none."""
    used = _at(entry, "report", "memory_used", "neuron_runtime_used_bytes")
    by_core = _at(used, "usage_breakdown", "neuroncore_memory_usage")
    uses = by_core.items() if isinstance(by_core, dict) else ()
    cores = tuple(_core(int(number), use) for number, use in uses if number.isdecimal() and isinstance(use, dict))
    total = _at(used, "neuron_device")
    if not _is_size(total):
        total = sum(core.total for core in cores)
    return (
        MemoryReading(total, cores, on_device=True) if total or cores or _is_size(_at(used, "neuron_device")) else None
    )


def _added(readings: Iterable[MemoryReading]) -> MemoryReading:
    """One reading of several; a core's purposes add up."""
    total, by_core = 0, dict[int, list[CoreUse]]()
    for reading in readings:
        total += reading.total
        for use in reading.cores:
            by_core.setdefault(use.core, []).append(use)
    cores = (
        CoreUse(core, **{purpose: sum(getattr(use, purpose) for use in uses) for purpose in PURPOSES})
        for core, uses in sorted(by_core.items())
    )
    return MemoryReading(total, tuple(cores), on_device=True)


def _core(number: int, use: dict[str, Any]) -> CoreUse:
    sizes = {purpose: size for purpose, size in use.items() if _is_size(size)}
    named = {purpose: sizes.get(purpose, 0) for purpose in _NAMED}
    return CoreUse(number, **named, other=sum(sizes.values()) - sum(named.values()))


def _at(value: Any, *keys: str) -> Any:
    """What lies below these keys; None where one is absent, or null."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class MemoryMonitor:
    """Reads neuron-monitor's stream in the background, from the first `read` on; without it, the process's memory."""

    def __init__(
        self,
        command: str | None = None,
        pid: int | None = None,
        main_memory: Callable[[], int] = process_memory,
    ) -> None:
        """command: path of neuron-monitor, looked up where None. pid: the process to report on, this one where None.
        main_memory: bytes to show where the device's cannot be read."""
        self._main_memory = main_memory
        self._command = command
        self._pid = os.getpid() if pid is None else pid
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._started = False
        self._latest: MemoryReading | None = None
        self._note = ""

    def read(self) -> MemoryReading:
        """The latest reading. Never blocks; the device's memory appears with neuron-monitor's first report."""
        with self._lock:
            if not self._started:
                self._started = True
                self._start()
            if self._latest is not None:
                return self._latest
            return MemoryReading(self._main_memory(), note=self._note)

    def close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            atexit.unregister(self.close)
            process.terminate()
            process.wait()

    def _start(self) -> None:
        command = self._command or shutil.which(TOOL) or (str(USUAL_PLACE) if USUAL_PLACE.exists() else None)
        if command is None:
            self._note = (
                "neuron-monitor is not installed here, so this is the process's main memory; on an Inf2 or "
                "Trn1 instance "
                "aws-neuronx-tools brings it."
            )
            return
        try:
            self._process = subprocess.Popen(
                [command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self._note = (
                f"neuron-monitor could not be started ({error.strerror}), so this is the process's main memory."
            )
            return
        atexit.register(self.close)  # it would outlive this process
        self._note = "neuron-monitor has not reported on this process yet, so this is its main memory."
        threading.Thread(target=self._follow, args=(self._process,), name="neuron-monitor", daemon=True).start()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as reports:
            for line in reports:
                report = parse_report(line, self._pid, process_tag())
                with self._lock:
                    # A report without sizes, of a process that is there, takes nothing back of what is known.
                    if report.reading is not None or report.present is False:
                        self._latest = report.reading
        with self._lock:
            self._latest = None
            self._note = "neuron-monitor has ended, so this is the process's main memory."
