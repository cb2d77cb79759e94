"""Live memory of this process: on the NeuronCores where `neuron-monitor` runs, in main memory elsewhere. Stdlib only.

`neuron-monitor` prints one JSON report a line, every five seconds, about every process that uses the device. Only
this process's part is read. Format: AWS Neuron documentation, Neuron Monitor User Guide.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

TOOL = "neuron-monitor"
USUAL_PLACE = Path("/opt/aws/neuron/bin/neuron-monitor")  # not on every shell's PATH


@dataclass(frozen=True, slots=True)
class CoreUse:
    """Bytes of device memory this process holds on one NeuronCore, by purpose."""

    core: int
    tensors: int = 0
    constants: int = 0
    model_code: int = 0
    model_shared_scratchpad: int = 0
    runtime_memory: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, purpose) for purpose in PURPOSES)


PURPOSES = tuple(field.name for field in fields(CoreUse) if field.name != "core")


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes in use by this process. cores is empty where the device's memory cannot be read; note says why."""

    total: int
    cores: tuple[CoreUse, ...] = ()
    note: str = ""

    @property
    def on_device(self) -> bool:
        return bool(self.cores)


def parse_report(line: str, pid: int) -> MemoryReading | None:
    """The reading in one report of neuron-monitor; None where it says nothing of `pid`, or is no report."""
    try:
        report = json.loads(line)
        for runtime in report["neuron_runtime_data"]:
            if runtime["pid"] == pid:
                used = runtime["report"]["memory_used"]["neuron_runtime_used_bytes"]
                by_core = used["usage_breakdown"]["neuroncore_memory_usage"]
                cores = sorted((_core(number, use) for number, use in by_core.items()), key=lambda use: use.core)
                return MemoryReading(int(used["neuron_device"]), tuple(cores))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None


def process_memory() -> int:
    """Bytes of main memory this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the highest so far, in bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class MemoryMonitor:
    """Reads neuron-monitor's stream in the background, from the first `read` on; without it, the process's memory."""

    def __init__(self, command: str | None = None, pid: int | None = None) -> None:
        """command: path of neuron-monitor, looked up where None. pid: the process to report on, this one where None."""
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
            return MemoryReading(process_memory(), note=self._note)

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
                "neuron-monitor is not installed here, so this is the process's main memory; on an Inf2 or Trn1 instance "
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
                reading = parse_report(line, self._pid)
                with self._lock:
                    self._latest = reading
        with self._lock:
            self._latest = None
            self._note = "neuron-monitor has ended, so this is the process's main memory."


def _core(number: str, use: dict[str, Any]) -> CoreUse:
    return CoreUse(int(number), **{purpose: int(use.get(purpose, 0)) for purpose in PURPOSES})
