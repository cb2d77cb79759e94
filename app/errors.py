"""The errors a person may meet. Each message is one sentence that names the fault and a remedy.

PlaygroundError          caught once at the page and once at the command line (exit code 2)
├── RequestError         a knob or flag has a value that cannot work; nothing was started
├── PairError            a pair cannot be loaded: files, formats, memory, packages
├── TraceError           a trace file is not one, or not of this schema
└── ModelError           a loaded model misbehaved: NaN logits, a faulty acceptor; the run ends, the page lives
"""

from __future__ import annotations

import sys
from collections.abc import Callable

BAD_INPUT = 2
"""The exit code where what was asked for cannot work."""


class PlaygroundError(Exception):
    """Text fit for the person at the page."""


class RequestError(PlaygroundError):
    """A knob or flag has a value that cannot work."""


class PairError(PlaygroundError):
    """A pair cannot be loaded."""


class TraceError(PlaygroundError):
    """A trace file cannot be read."""


class ModelError(PlaygroundError):
    """A model or an acceptor misbehaved during a run."""


def exit_code(act: Callable[[], object]) -> int:
    """0, or BAD_INPUT with the sentence on standard error where it raises PlaygroundError."""
    try:
        act()
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    return 0
