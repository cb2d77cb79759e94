"""What k = auto chose in a run, in words. Stdlib only."""

from __future__ import annotations

from collections import Counter

from app.record.limits import AUTO
from app.record.trace import RunStarted, Trace, rounds


def chosen_windows(trace: Trace) -> str:
    """The windows of the passes after the prefill, such as "2 to 7, most often 4; 3 of 40 passes without drafts".

    Nothing for a run whose window was given, or that made no such pass.
    """
    started = next((event for event in trace if isinstance(event, RunStarted)), None)
    passes = rounds(trace, "speculative")[1:]
    if started is None or started.request.k != AUTO or not passes:
        return ""
    windows = Counter(len(round_.drafted) + 1 for round_ in passes)
    alone = windows.pop(1, 0)
    if not windows:
        return "no drafts in any pass"
    least, most, mode = min(windows), max(windows), max(windows, key=lambda k: (windows[k], k))
    said = f"always {most}" if least == most else f"{least} to {most}, most often {mode}"
    return f"{said}; {alone:,} of {len(passes):,} passes without drafts" if alone else said
