"""What the operating system says of this process. Stdlib only."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def process_memory() -> int:
    """Bytes this process holds; where that is not told (outside Linux), the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
