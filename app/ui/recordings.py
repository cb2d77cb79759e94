"""The recorded runs that come with the playground, and traces that people bring."""

from __future__ import annotations

from app.errors import RequestError
from app.record import trace
from app.record.conversation import asked
from app.record.trace import Trace
from app.ui.assets import REPLAYS


def recordings() -> list[dict[str, str]]:
    """The name of each recorded run, and what its first line says of it."""
    listed = []
    for path in sorted(REPLAYS.glob("*.jsonl")):
        with path.open(encoding="ascii") as lines:
            started = trace.loads(next(lines))
        assert isinstance(started, trace.RunStarted)
        request = started.request
        label = f"{asked(request)} (T = {request.sampling.temperature:g}, {request.acceptor}, k = {request.k})"
        listed.append({"name": path.stem, "label": label})
    return listed


def recording(name: str) -> Trace:
    """A recorded run by its name. Raises RequestError where there is none of that name."""
    if name not in {known["name"] for known in recordings()}:
        raise RequestError(f"There is no recorded run {name!r}; choose one of the list.")
    return trace.read_text((REPLAYS / f"{name}.jsonl").read_text(encoding="ascii"))


def first_recording() -> Trace:
    """The first of them, whose rounds are the pictures of the About tab; empty where there is none."""
    listed = recordings()
    return recording(listed[0]["name"]) if listed else []
