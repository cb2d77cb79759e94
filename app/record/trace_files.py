"""A trace file by its path. Stdlib only."""

from __future__ import annotations

from pathlib import Path

from app.errors import TraceError
from app.record import trace


def open_trace(path: Path | str) -> trace.Trace:
    """The trace in a file, checked; of any readable version. Raises TraceError."""
    path = Path(path)
    try:
        if path.stat().st_size > trace.MAX_TRACE_BYTES:
            raise TraceError(
                f"{path} is larger than {trace.MAX_TRACE_BYTES // 2**20} MiB, which no run of this playground is."
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(
            f"{path} cannot be read ({error.strerror}); choose a .jsonl file exported by this playground."
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not text; choose a .jsonl file exported by this playground.") from None
    return trace.read(text.splitlines())
