"""A pool that grows from one engine to two, on two nodes of a Ray cluster begun elsewhere, behind the page,
and what becomes of its visitors.

A process of its own, since Ray leaves threads and handlers behind: prints what the test of it looks at, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.bench.calls import called, client, events
from app.errors import RequestError
from app.hosting.pool import Pool, Size
from app.hosting.process import Home
from app.record.trace import RunFinished, RunStarted
from app.ui import readers
from tests.support.pages import served
from tests.support.toy_engine import recipe

TOKENS, LONG = 60, 4000
NODE = ["--num-cpus", "1", "--object-store-memory", str(80 * 2**20), "--disable-usage-stats", "--block"]


async def run(http: httpx.AsyncClient, max_tokens: int = TOKENS, begun: asyncio.Event | None = None) -> dict[str, Any]:
    """A visitor's run: the pair it ran on, when it began and ended, and how."""
    values = ["Hi", 3, max_tokens, 0, 1, 0, 0, "rejection", "draft", "both", "", True]
    started, told = {}, {"ended": 0.0, "how": "", "message": ""}
    try:
        async with aclosing(events(http, await called(http, values))) as stream:
            async for event in stream:
                if isinstance(event, RunStarted):
                    started = {"pair": event.pair, "began": time.monotonic()}
                    if begun is not None:
                        begun.set()
                elif isinstance(event, RunFinished):
                    told |= {"ended": time.monotonic(), "how": event.reason, "message": event.message}
    except RequestError as refused:
        told |= {"how": "refused", "message": str(refused)}
    if begun is not None:
        begun.set()  # it never will
    return {**started, **told}


def replicas() -> list[int]:
    """The processes of the engines' replicas."""
    names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [process for process, name in names.items() if name.startswith(b"ray::ServeReplica")]


async def scenario(address: str, pool: Pool) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    async with client(address) as http:
        seen["health"] = (await http.get("/healthz")).json()

        # one engine at first: another is started for who waits while it is taken
        seen["engines"] = [len(replicas())]
        begun = asyncio.Event()
        leaving = asyncio.ensure_future(run(http, LONG, begun))
        await begun.wait()
        seen["waited"] = await run(http)
        seen["engines"].append(len(replicas()))
        seen["meanwhile"] = not leaving.done()
        leaving.cancel()
        seen["together"] = await asyncio.gather(run(http), run(http))

        # one engine is killed in the middle of two runs
        began = [asyncio.Event(), asyncio.Event()]
        both = [asyncio.ensure_future(run(http, begun=event)) for event in began]
        for event in began:
            await event.wait()
        os.kill(replicas()[0], signal.SIGKILL)
        seen["killed"] = [await each for each in both]
        seen["after"] = await asyncio.gather(run(http), run(http))

        # whoever leaves frees an engine: both are free for two who come then
        begun = asyncio.Event()
        leaving = asyncio.ensure_future(run(http, LONG, begun))
        await begun.wait()
        leaving.cancel()
        await asyncio.to_thread(pool.switch, "toy 1")
        seen["switched"] = await asyncio.gather(run(http), run(http))
    return seen


@contextmanager
def cluster() -> Iterator[str]:
    """Its address; begun by `ray start`, as people do, on two nodes, with a token that all share."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *NODE]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    nodes: list[subprocess.Popen[str]] = []
    try:
        for own in (["--head", "--port", port, "--include-dashboard", "false"], ["--address", f"127.0.0.1:{port}"]):
            node = subprocess.Popen([*ray, *own], stdout=subprocess.PIPE, text=True)
            nodes.append(node)
            assert node.stdout is not None
            if not any("Ray runtime started" in line for line in node.stdout):
                raise RuntimeError("ray start ended")
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.communicate()


def main() -> None:
    readers.PATIENCE = 3.0
    homes = {f"toy {number}": Home(sys.executable) for number in range(3)}
    made = recipe(pairs=3, delay=0.01, n_positions=8192)
    with cluster() as at, closing(Pool(made, at, Size(1, 2), homes=homes)) as pool, served(pool) as address:
        print(json.dumps(asyncio.run(scenario(address, pool))), flush=True)


if __name__ == "__main__":
    main()
