"""What many visitors at once do to the page: who is served, how soon it answers meanwhile, and what it keeps of them.

A page of a toy pair is served by a process of its own, as `serve` does it; its engine costs next to nothing, so that
what is measured is the page. The crowd is this process's, whoever asks for the page meanwhile another's.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.bench.calls import called, client, events
from app.engine.session import Session
from app.errors import RequestError
from app.record.trace import Event, RunFinished

POSTS, CLIENTS, TOKENS, LONG = 60, 200, 8, 200
PERSONS_TOKENS, PERSONS_UPDATES = 48, 3
"""Of a person's run, and of it what is seen before it is stopped or left: a run that is left goes on for a while."""
AT_ONCE = 20
PATIENCE = 60.0
"""Seconds after which a run, or the page's way back to idleness, is given up, and counted as lost."""
LOOK_SECONDS = 0.2
"""How often the page is asked for meanwhile."""
LOST = "lost"
"""How a run ended of which nobody was told how it ended."""
_API = "/gradio_api"


def toy_session(chosen: str | None = None) -> Session:
    """A pair of tables whose passes take a millisecond."""
    from app.backends.toy import toy_pair
    from app.engine.pair import Pair

    target, draft, tokenizer = toy_pair(vocab_size=259, delay=0.001)
    return Session(Pair("toy target + toy draft", "toy", target, draft, tokenizer))


def page(port: int) -> int:
    """Serve it; what the process of the page does."""
    from app.hosting.process import ProcessEngine
    from app.hosting.recipe import Recipe
    from app.ui import serve
    from app.ui.desk import Desk
    from app.ui.readers import Readers

    engine = ProcessEngine(Recipe("app.bench.load:toy_session"))
    serve.leave(serve.serve(engine, None, serve.Address("127.0.0.1", port), Desk(readers=Readers())))


def figures(runs: int, tell: Callable[[str], None]) -> None:
    """Tell the figures, a line each as they come. runs: of the last part. Raises RequestError."""
    if runs < 1:
        raise RequestError(f"{runs} runs load nothing; choose 1 or more --runs.")
    with _served() as (process, address):
        asyncio.run(_measured(process, address, runs, tell))


async def _measured(process: int, address: str, runs: int, tell: Callable[[str], None]) -> None:
    async with client(address) as http:
        visitors = Visitors(http, (await http.get("/config")).json())
        for name, part in (
            (f"{POSTS} direct posts during a run", visitors.posts()),
            (f"{CLIENTS} clients of {TOKENS} tokens at once", visitors.clients()),
        ):
            with _asked_meanwhile(address) as seconds:
                ends = await part
            tell(f"{name}: {_counted(ends)}; {_answers(seconds)}")
        ends, held = Counter[str](), list[tuple[int, int]]()
        with _asked_meanwhile(address) as seconds:
            for begun in range(0, runs, AT_ONCE):
                numbers = range(begun, min(begun + AT_ONCE, runs))
                ends.update(await asyncio.gather(*[visitors.random(number) for number in numbers]))
                await visitors.idle()
                held.append((_memory(process), await visitors.engine_memory()))
        tell(f"{runs} runs with random ends: {_counted(ends)}; {_answers(seconds)}")
        fifth = max(1, len(held) // 5)
        for name, memory in zip(("page", "engine"), zip(*held, strict=True), strict=True):
            before, after = statistics.median(memory[fifth : 2 * fifth] or memory), statistics.median(memory[-fifth:])
            tell(
                f"the {name}'s process holds {after / 2**20:.1f} MiB after them, {100 * (after / before - 1):+.2f}% "
                f"since the first {min(runs, 2 * fifth * AT_ONCE)} ({before / 2**20:.1f} MiB)"
            )
        tell(f"one more run: {await visitors.called('last')}")


class Visitors:
    """What people and programs do to the page."""

    def __init__(self, http: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self._http, self._chance = http, random.Random(3)
        named = {each["props"].get("elem_id"): each for each in config["components"]}
        values = {each["id"]: each["props"].get("value") for each in config["components"]}
        events = {
            name: next(each for each in config["dependencies"] if [named[name]["id"], "click"] in each["targets"])
            for name in ("run", "stop")
        }
        self._functions = {name: event["id"] for name, event in events.items()}
        self._knobs = [values[each] for each in events["run"]["inputs"]][:-1]
        self._knobs[2] = PERSONS_TOKENS  # prompt, k, max_tokens

    async def posts(self) -> Counter[str]:
        """Programs that wait for a whole answer while a run is under way."""
        running = asyncio.ensure_future(self.called("running", LONG))

        async def post() -> str:
            answer = await self._http.post(f"{_API}/run/run", json={"data": _values(TOKENS)})
            return "served" if answer.status_code == 200 else str(answer.json()["error"])

        ends = Counter(await asyncio.gather(*[post() for _ in range(POSTS)]))
        return ends + Counter([f"the run itself: {await running}"])

    async def clients(self) -> Counter[str]:
        """Programs that read what their run says, all at once."""
        return Counter(await asyncio.gather(*[self.called(f"client{number}") for number in range(CLIENTS)]))

    async def random(self, number: int) -> str:
        """A person's run, stopped or left after a while, or a program's, read to its end."""
        choice = self._chance.random()
        if choice < 1 / 3:
            run = self.called(f"program{number}")
        else:
            run = self._person(f"person{number}x{secrets.token_hex(4)}", leaves=choice < 2 / 3)
        try:
            return await asyncio.wait_for(run, PATIENCE)
        except asyncio.TimeoutError:  # no TimeoutError yet in Python 3.10
            return LOST

    async def called(self, session: str, max_tokens: int = TOKENS) -> str:
        """How a program's run ended."""
        last: Event | None = None
        try:
            async with aclosing(events(self._http, await called(self._http, _values(max_tokens), session))) as told:
                async for event in told:
                    last = event
        except RequestError as refused:
            return str(refused)
        return "served" if isinstance(last, RunFinished) and last.reason in ("length", "stop") else LOST

    async def _person(self, session: str, leaves: bool) -> str:
        run_id = secrets.token_hex(12)
        await self._join("run", session, [*self._knobs, run_id])
        enough = self._chance.randrange(PERSONS_UPDATES)
        async with self._http.stream("GET", f"{_API}/queue/data", params={"session_hash": session}) as stream:
            updates = 0
            async for line in stream.aiter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                updates += message.get("msg") == "process_generating"
                if leaves and updates >= enough:
                    return "left"
                if updates == enough and message.get("msg") in ("estimation", "process_generating"):
                    await self._join("stop", session, [run_id])
                    enough = -1
                if (
                    message.get("msg") == "process_completed"
                    and message.get("output", {}).get("is_generating") is False
                ):
                    return LOST if not message["success"] else "stopped" if enough < 0 else "served"
        return LOST

    async def _join(self, name: str, session: str, data: list[Any]) -> None:
        asked = {"fn_index": self._functions[name], "data": data, "session_hash": session}
        (await self._http.post(f"{_API}/queue/join", json=asked)).raise_for_status()

    async def idle(self) -> None:
        """Once nobody runs or waits. Raises RequestError where that does not come."""
        end = time.monotonic() + PATIENCE
        while (state := (await self._http.get("/healthz")).json())["running"] or state["waiting"]:
            if time.monotonic() > end:
                raise RequestError(f"Nobody asks for anything any more, and the page still says {state}; report it.")
            await asyncio.sleep(0.05)

    async def engine_memory(self) -> int:
        """Bytes that its process holds."""
        lines = (await self._http.get("/metrics")).text.splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith("playground_engine_memory_bytes "))


def ask(address: str) -> int:
    """Ask for the page until this process is ended, and print how long each answer took. The crowd's own work is
    another process's, and no part of it."""
    while True:
        began = time.perf_counter()
        with urllib.request.urlopen(address) as answer:
            answer.read()
        print(time.perf_counter() - began, flush=True)
        time.sleep(LOOK_SECONDS)


@contextmanager
def _asked_meanwhile(address: str) -> Iterator[list[float]]:
    """The seconds that the page took to answer all the while, once it is over."""
    seconds: list[float] = []
    code = f"from app.bench.load import ask; ask({address!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        seconds.append(float(asking.stdout.readline()))  # it is there
        try:
            yield seconds
        finally:
            asking.terminate()
            seconds += [float(line) for line in asking.stdout if line.endswith("\n")]


def _values(max_tokens: int) -> list[Any]:
    return ["Hi", 3, max_tokens, 0, 1, 0, 0, "rejection", "draft", "both", "", True]


def _counted(ends: Counter[str]) -> str:
    return ", ".join(f"{count} {end}" for end, count in sorted({LOST: 0, **ends}.items()))


def _answers(seconds: list[float]) -> str:
    return (
        f"the page answered in {1e3 * statistics.median(seconds):.0f} ms, {1e3 * max(seconds):.0f} ms at most, of "
        f"{len(seconds)} times"
    )


def _memory(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def _served() -> Iterator[tuple[int, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    code = f"from app.bench.load import page; page({port})"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                httpx.get(f"{address}/healthz", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield server.pid, address
    finally:
        server.terminate()
        server.wait()
