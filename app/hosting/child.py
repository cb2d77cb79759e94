"""An engine's process, started by `app.hosting.process` with two inherited descriptors: a socket and a lifeline.

It is told a recipe, then what to do, one message a line: run, switch. A run's answer is the trace's own lines; after
each of them the engine waits until it is asked for the next, as a generator does, so that nothing the page does
overlaps a pass.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from app.errors import PlaygroundError
from app.hosting import description
from app.hosting.channel import Channel
from app.hosting.recipe import Recipe
from app.record import trace
from app.record.trace import Request, RunFinished

IDLE = 1.0
"""Seconds without a message after which an engine has nothing to do."""
NEXT, STOP = '{"do":"next"}', '{"do":"stop"}'


def main(arguments: list[str]) -> int:
    descriptor, lifeline = map(int, arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the page's, which ends this process
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    with suppress(OSError):  # where memory runs out, this process goes and the page stays
        Path("/proc/self/oom_score_adj").write_text("900", encoding="ascii")
    channel = Channel(socket.socket(fileno=descriptor))
    with suppress(EOFError):
        serve(channel)
    return 0


def serve(channel: Channel) -> None:
    """Answer until the other end is gone."""
    start = channel.message()
    if start["memory"] is not None and hasattr(resource, "RLIMIT_DATA"):
        resource.setrlimit(resource.RLIMIT_DATA, (start["memory"], start["memory"]))
    try:
        session = Recipe(start["factory"], start["arguments"]).make(start["chosen"])
    except PlaygroundError as error:
        channel.say({"fault": type(error).__name__, "sentence": str(error)})
        return
    warm_up(session)
    gc.collect()
    gc.freeze()
    channel.say({"description": description.to_dict(description.of(session))})
    preparing = prepared(session)
    while True:
        message = _next(channel, preparing)
        if message["do"] == "run":
            _run(channel, session, message)
        elif message["do"] == "count":
            _count(channel, session, message)
        elif message["do"] == "switch":
            _switch(channel, session, message["name"])
            preparing = prepared(session)


def prepared(session: Any) -> Iterator[None]:
    """Make what first runs would wait for, a step at a time; what cannot be made says so when it is asked for."""
    try:
        yield from session.prepare()
    except Exception as error:
        logging.getLogger(__name__).warning("nothing more is prepared: %s", error)


def _next(channel: Channel, preparing: Iterator[None]) -> dict[str, Any]:
    """The next message; while none comes, steps of `preparing`. So nothing is prepared while a run is on its clock, and
    who asks meanwhile waits for one step."""
    while (message := channel.message_within(IDLE)) is None:
        if next(preparing, IDLE) is IDLE:
            return channel.message()
    return message


def warm_up(session: Any) -> None:
    """A first short run, so that the first one that is asked for is timed like any other."""
    request = Request("Hello", max_tokens=8, k=session.default_k, drafter=session.drafters[0])
    with suppress(PlaygroundError):  # what cannot run says so when it is asked for
        deque(session.run(request), maxlen=0)


def _run(channel: Channel, session: Any, message: dict[str, Any]) -> None:
    try:
        with closing(session.run(trace.request(message["request"]))) as events:
            for event in events:
                channel.send(trace.dumps(event))
                if not isinstance(event, RunFinished) and channel.line() == STOP:
                    break
    except PlaygroundError as error:
        channel.say({"fault": type(error).__name__, "sentence": str(error)})
    except EOFError:
        raise
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: an acceptor is anybody's code
        logging.getLogger(__name__).warning("a run ended by %r", error)
        sentence = (
            f"The run was ended from within by {type(error).__name__}, which an acceptor may have raised; "
            "choose another acceptor, or mend it."
        )
        channel.send(trace.dumps(RunFinished("error", sentence)))
    channel.say({"over": True})


def _count(channel: Channel, session: Any, message: dict[str, Any]) -> None:
    try:
        channel.say({"tokens": session.count(trace.request(message["request"]))})
    except PlaygroundError as error:
        channel.say({"fault": type(error).__name__, "sentence": str(error)})


def _switch(channel: Channel, session: Any, name: str) -> None:
    fault: dict[str, Any] = {}
    try:
        session.switch(name)
        warm_up(session)
    except PlaygroundError as error:
        fault = {"fault": type(error).__name__, "sentence": str(error)}
    channel.say({**fault, "description": description.to_dict(description.of(session))})


def _end_with(lifeline: int) -> None:
    """End this process, whatever it is doing, when the one that started it is gone."""
    os.read(lifeline, 1)
    os._exit(0)


def start() -> NoReturn:
    """The process's beginning and end."""
    logging.basicConfig(level=logging.WARNING)
    raise SystemExit(main(sys.argv[1:]))
