"""What a pair holds, and how long a new sequence takes, in a process of its own: `bench memory`.

The process counts what it held before it loaded (the interpreter, the engine's libraries) as nothing of the model's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from app.errors import PairError
from app.hosting import recipe
from app.pairs import registry
from app.pairs.options import PairOptions

WINDOWS = (1, 2, 3, 5)
_STATUS = Path("/proc/self/status")


def measured(options: PairOptions, windows: tuple[int, ...] = WINDOWS) -> dict[str, Any]:
    """Bytes and seconds: `weights` in the precision asked for, what the process `holds` once two sequences of each
    model have run (their caches and programs included; kernels are made when they are first needed), its `peak` until
    then, and `new_sequence_s` of each.

    Raises PairError where the pair cannot be loaded, or the system does not say what a process holds (not Linux).
    """
    if not _STATUS.exists():
        raise PairError("This system does not say what a process holds at most; measure on Linux.")
    asked = json.dumps({"options": recipe.written(options), "windows": windows})
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", __name__]
    child = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, cwd=root)
    if child.returncode:
        raise PairError((child.stderr.strip().splitlines() or ["The measuring process died."])[-1])
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def _child() -> None:
    asked = json.loads(sys.stdin.read())
    options, windows = recipe.read(asked["options"]), tuple(asked["windows"])
    try:
        load = registry.prepare(options)
        reset_peak()
        before, begin = status("VmRSS"), time.perf_counter()
        pair = load()
        seconds = time.perf_counter() - begin
        models = [model for model in (pair.target, pair.draft) if model is not None]
        sequences, took = [], []
        for model in models:
            for _ in range(2):
                begin = time.perf_counter()
                sequence = model.new_sequence(windows)
                took.append(round(time.perf_counter() - begin, 3))
                for rows in (3, *windows):
                    sequence.forward([1] * rows, rows)
                sequences.append(sequence)
        holds, peak = status("VmRSS") - before, status("VmHWM") - before
        result = {
            "pair": pair.name,
            "weights": sum(model.memory() for model in models),
            "holds": holds,
            "peak": peak,
            "anonymous": status("RssAnon"),
            "files": status("RssFile"),
            "load_s": round(seconds, 2),
            "new_sequence_s": took,
        }
    except PairError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(result))


def status(key: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    _child()
