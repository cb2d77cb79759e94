"""A trace file by its path. Stdlib only."""

from __future__ import annotations

from pathlib import Path

from app.errors import TraceError
from app.record import trace


def open_trace(path: Path | str) -> trace.Trace:
    """The trace in a file, checked; of any readable version. Raises TraceError."""
    path = Path(path)
    try:
        with path.open("rb") as file:  # a device or a pipe has no size: no more is read than a trace may have
            content = file.read(trace.MAX_TRACE_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise TraceError(
            f"{path} cannot be read ({error.strerror}); choose a .jsonl file exported by this playground."
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not text; choose a .jsonl file exported by this playground.") from None
    if len(content) > trace.MAX_TRACE_BYTES:
        raise TraceError(
            f"{path} is larger than {trace.MAX_TRACE_BYTES // 2**20} MiB, which no run of this playground is."
        )
    return trace.read_text(text)
