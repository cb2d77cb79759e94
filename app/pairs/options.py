"""What is asked of a pair."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What the command line says of a pair. None: the embedded pair, the backend's own choice.

    target and draft: a GGUF, a Hugging Face directory or, for torch, a Hub id (`revision`, `draft_revision`: which
    version of it). threads is for openvino and torch on a processor, device for torch; tp_degree for neuron and
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


def is_hub_id(path: Path) -> bool:
    """Whether `path` is written as owner/name and is nothing on this disk."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(path)) is not None and not path.exists()
