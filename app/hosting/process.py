"""An engine in a process of its own, watched: what ends it or hangs it ends one run, and the next finds another
engine."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import PairError, PlaygroundError, RequestError
from app.hosting import description
from app.hosting.channel import Channel
from app.hosting.child import NEXT, STOP
from app.hosting.described import Described
from app.hosting.recipe import Recipe
from app.neuron.monitor import TAG_VARIABLE, process_tag
from app.record import trace
from app.record.trace import Event, Request, Round, RunFinished

ROOT = Path(__file__).resolve().parents[2]
"""Where the package app lies."""
ROUND_SECONDS = 120.0
"""A round that takes longer is taken for one that never ends."""
PREFILL_SECONDS = 900.0
"""The same for a run's first rounds: a long prompt on a large model takes minutes."""
LOOK_SECONDS = 0.25
"""How often an engine that says nothing is looked at: whether it was stopped, and what it holds."""
GRACE_SECONDS = 5.0
"""What a stopped engine has to come to the end of its round."""
_FAULTS: dict[str, type[PlaygroundError]] = {kind.__name__: kind for kind in (RequestError, PairError)}


_START = "import sys; del sys.path[0]; from app.hosting.child import start; start()"
ENDING = "The playground was ended; start it again, and run this again."
EVENT = '{"type"'
"""How a line begins that is an event, and no message."""


class EngineLostError(PlaygroundError):
    """The engine's process ended, or was ended; the message says why."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a listed pair is loaded. python: the interpreter of the environment its backend needs. alone: it takes a
    process that has loaded no other pair."""

    python: str
    alone: bool = False


class Child:
    """A process that has been started: it may still be loading."""

    def __init__(self, recipe: Recipe, chosen: str | None, python: str, memory: int | None) -> None:
        self.python = python
        self._ending = threading.Lock()
        ours, theirs = socket.socketpair()
        kept, self._lifeline = os.pipe()
        # An acceptor's modules are found as they are here, after the program's own.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())])
        try:
            self.process = subprocess.Popen(
                [python, "-c", _START, str(theirs.fileno()), str(kept)],
                pass_fds=(theirs.fileno(), kept),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an acceptor prints is no output of the page's
                env={**os.environ, "PYTHONPATH": path, TAG_VARIABLE: process_tag()},
                start_new_session=True,
            )
        except OSError as error:
            raise PairError(f"The engine's Python {python} cannot be started ({error.strerror}); check it.") from None
        finally:
            theirs.close()
            os.close(kept)
        self.channel = Channel(ours)
        start = {"factory": recipe.factory, "arguments": recipe.arguments, "chosen": chosen, "memory": memory}
        with suppress(EOFError):  # it is noticed when it is asked for its description
            self.channel.say(start)
        self.description: description.Description | None = None

    def end(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        with self._ending:  # the page's end and a run's may meet here
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1

    def own_memory(self) -> int:
        """Bytes it holds that are no file's; 0 where the system does not tell."""
        return _status(self.process.pid, "RssAnon:") + _status(self.process.pid, "RssShmem:")

    def memory(self) -> int:
        """Bytes it holds in all; 0 where the system does not tell."""
        return _status(self.process.pid, "VmRSS:")


class ProcessEngine(Described):
    """One pair in one process; runs take turns. See `app.engine.session.Session`, whose attributes and methods it
    has."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        python: str = sys.executable,
        homes: Mapping[str, Home] | None = None,
        round_seconds: float = ROUND_SECONDS,
        prefill_seconds: float = PREFILL_SECONDS,
        memory: int | None = None,
    ) -> None:
        """Loads the pair, and runs it once, as every process started later does. python: the interpreter of the
        environment its backend needs; homes: those of the listed pairs, by name, where they may be others. memory:
        bytes it may hold beside the files it reads. Raises PlaygroundError."""
        self._recipe, self._python, self._memory = recipe, python, memory
        self._homes = dict(homes or {})
        self._round_seconds, self._prefill_seconds = round_seconds, max(round_seconds, prefill_seconds)
        self._lock = threading.Lock()
        self._closed = False
        self.restarts = 0
        self._child = self._started(None)
        try:
            super().__init__(self._ready())
        except BaseException:
            self._child.end()
            raise

    engines = 1
    """How many runs may be under way at once."""

    @property
    def process_id(self) -> int:
        return self._child.process.pid

    def memory(self) -> int:
        """Bytes the engine's process holds; 0 where the system does not tell."""
        return self._child.memory()

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._child.process.poll() is None

    def run(self, request: Request, *, stopped: Callable[[], bool] | None = None) -> Generator[Event, None, None]:
        """See `Session.run`; what cannot run raises on the first step. stopped: asked while a round takes long; an
        engine that does not come to its end is given up."""
        with self._lock:
            child, line = self._begun(request, stopped)
            over = False
            waiting_for = {"target", "speculative"} if request.arms == "both" else {request.arms}
            try:
                while True:
                    event = trace.loads(line)
                    if isinstance(event, RunFinished):
                        self._line(child, GRACE_SECONDS)  # that it is over
                        over = True
                        yield event
                        return
                    if isinstance(event, Round):
                        waiting_for.discard(event.arm)
                    yield event
                    child.channel.send(NEXT, GRACE_SECONDS)
                    line = self._line(child, self._prefill_seconds if waiting_for else self._round_seconds, stopped)
            except GeneratorExit:
                if not over:
                    over = True
                    self._end_run(child)
                raise
            except (EOFError, TimeoutError, EngineLostError) as error:
                over = True
                yield RunFinished("error", self._lost(child, error))
            finally:
                if not over:
                    self._restart()

    def _begun(self, request: Request, stopped: Callable[[], bool] | None) -> tuple[Child, str]:
        """The child at work on the request, and its first line. An engine that was gone already is replaced once."""
        for again in (True, False):
            child = self._loaded(stopped)
            try:
                child.channel.say({"do": "run", "request": dataclasses.asdict(request)}, GRACE_SECONDS)
                line = self._line(child, self._round_seconds, stopped)
                if line.startswith(EVENT):
                    return child, line
                self._line(child, GRACE_SECONDS)  # that it is over
                raise fault_of(json.loads(line))
            except (EOFError, TimeoutError, EngineLostError) as error:
                sentence = self._lost(child, error)
                if not again or not isinstance(error, EOFError):
                    raise EngineLostError(sentence) from None
        raise AssertionError

    def count(self, request: Request) -> int | None:
        """See `Session.count`; None as well while an engine is being started."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            child = self._child
            if self._closed or child.description is None or child.process.poll() is not None:
                return None
            child.channel.say({"do": "count", "request": dataclasses.asdict(request)}, GRACE_SECONDS)
            message = json.loads(self._line(child, GRACE_SECONDS))
        except (EOFError, TimeoutError, EngineLostError):
            self._restart()  # whoever runs next finds another
            return None
        finally:
            self._lock.release()
        if "fault" in message:
            raise fault_of(message)
        tokens: int | None = message["tokens"]
        return tokens

    def switch(self, name: str) -> None:
        """See `Session.switch`. Where the loaded pair must stay in its process, another process takes the new one."""
        with self._lock:
            if name not in self._described.pairs:
                raise RequestError(f"There is no pair {name!r} here; choose one of {', '.join(self._described.pairs)}.")
            child = self._loaded()
            if name == self._described.chosen:
                return
            home = self._home(name)
            if self._described.stays or home.alone or home.python != child.python:
                self._switch_process(name)
                return
            try:
                child.channel.say({"do": "switch", "name": name}, GRACE_SECONDS)
                message = self._message(child)
            except (EOFError, TimeoutError) as error:
                raise PairError(f"{name} could not be loaded. {self._lost(child, error)}") from None
            self._described = child.description = description.from_dict(message["description"])
            if "fault" in message:
                raise fault_of(message)

    def close(self) -> None:
        """End the process; a run under way ends by an error."""
        self._closed = True
        self._child.end()

    def _switch_process(self, name: str) -> None:
        before = self._described.chosen
        self._child.end()
        self._child = self._started(name)
        try:
            self._described = self._ready()
        except PlaygroundError:
            self._child.end()
            self._child = self._started(before)
            raise

    def _started(self, chosen: str | None) -> Child:
        """A process that loads the listed pair of this name (None: the first)."""
        return Child(self._recipe, chosen, self._home(chosen).python, self._memory)

    def _home(self, name: str | None) -> Home:
        return self._homes.get(name or "", Home(self._python))

    def _loaded(self, stopped: Callable[[], bool] | None = None) -> Child:
        """The child, loaded; started again where it is gone. Raises PlaygroundError."""
        if self._closed:
            raise EngineLostError(ENDING)
        if self._child.process.poll() is not None:
            self._restart()
        self._described = self._ready(stopped)
        return self._child

    def _ready(self, stopped: Callable[[], bool] | None = None) -> description.Description:
        """What the child says of itself, waited for."""
        child = self._child
        if child.description is None:
            try:
                message = self._message(child, stopped)
            except EOFError:
                raise EngineLostError(
                    f"The engine ended while it loaded the pair ({_how(child)}); try again."
                ) from None
            if "fault" in message:
                raise fault_of(message)
            child.description = description.from_dict(message["description"])
        return child.description

    def _message(self, child: Child, stopped: Callable[[], bool] | None = None) -> dict[str, Any]:
        """The next message, however long it takes: loading and compiling may take an hour. Raises RequestError where it
        is stopped before."""
        while (message := child.channel.message_within(LOOK_SECONDS)) is None:
            if stopped is not None and stopped():
                raise RequestError("Stopped before the engine was ready.")
        return message

    def _line(self, child: Child, seconds: float, stopped: Callable[[], bool] | None = None) -> str:
        """The next line. Raises EOFError, TimeoutError or EngineLostError."""
        end = time.monotonic() + seconds
        while (line := child.channel.line_within(min(LOOK_SECONDS, seconds))) is None:
            now = time.monotonic()
            if now >= end:
                raise TimeoutError
            if self._memory is not None and child.own_memory() > self._memory:
                raise EngineLostError(
                    f"The run took more than the {self._memory / 1e9:.1f} GB of memory an engine may have here"
                )
            if stopped is not None and stopped():
                end = min(end, now + GRACE_SECONDS)
        return line

    def _end_run(self, child: Child) -> None:
        """Tell the child to end its run; one that does not is given up."""
        try:
            child.channel.send(STOP, GRACE_SECONDS)
            while not self._line(child, GRACE_SECONDS).startswith('{"over"'):
                pass
        except (EOFError, TimeoutError, EngineLostError):
            self._restart()

    def _lost(self, child: Child, error: Exception) -> str:
        """Start another child; the sentence of what became of this one."""
        if isinstance(error, TimeoutError):
            what = "A round took longer than a round may, so its engine was ended"
        elif isinstance(error, EngineLostError):
            what = str(error)
        else:
            what = f"The engine ended in the middle of the run ({_how(child)})"
        if self._closed:
            return ENDING
        self._restart()
        return f"{what}. Another engine is being started; run it again, or choose another acceptor."

    def _restart(self) -> None:
        chosen = self._described.chosen if len(self._described.pairs) > 1 else None
        self._child.end()
        if not self._closed:
            self.restarts += 1
            self._child = self._started(chosen)


def fault_of(message: Mapping[str, Any]) -> PlaygroundError:
    """The error that a message tells of."""
    return _FAULTS.get(message["fault"], PlaygroundError)(message["sentence"])


def _how(child: Child) -> str:
    """How it ended."""
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(GRACE_SECONDS)
    code = child.process.returncode
    if code is None:
        return "it closed its connection"
    if code < 0:
        with suppress(ValueError):
            return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _status(process_id: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
