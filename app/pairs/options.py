"""What is asked of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LIMITS = {"threads": (1, 1024), "n_positions": (2, 1_000_000_000), "tp_degree": (1, 1024)}
"""From and to which number an option means something."""


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What the command line says of a pair. None: the embedded pair, the backend's own choice.

    target and draft: a GGUF, a Hugging Face directory, or an id or link of the Hub (`revision`, `draft_revision`:
    which version of it). threads is for openvino and torch on a processor, device for torch; tp_degree for neuron and
    torch; windows, artifacts and neuron_library are for neuron.
    """

    backend: str = "openvino"
    target: Path | None = None
    draft: Path | None = None
    dtype: str | None = None
    threads: int | None = None
    n_positions: int | None = None
    device: str | None = None
    revision: str | None = None
    draft_revision: str | None = None
    tp_degree: int | None = None
    windows: tuple[int, ...] | None = None
    artifacts: Path | None = None
    neuron_library: str | None = None
