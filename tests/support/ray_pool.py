"""A pool of two engines on two nodes of a real Ray cluster, behind the page, and what becomes of its visitors.

A process of its own, since Ray leaves threads and handlers behind: prints what the test of it looks at, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
from ray.cluster_utils import Cluster

from app.bench.calls import called, client, events
from app.errors import RequestError
from app.hosting.pool import Pool, Size
from app.hosting.process import Home
from app.record.trace import RunFinished, RunStarted
from app.ui import readers
from tests.support.pages import served
from tests.support.toy_engine import recipe

TOKENS = 60
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


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
        leaving = asyncio.ensure_future(run(http, 4000, begun))
        await begun.wait()
        leaving.cancel()
        await asyncio.to_thread(pool.switch, "toy 1")
        seen["switched"] = await asyncio.gather(run(http), run(http))
    return seen


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    cluster.add_node(**NODE)
    readers.PATIENCE = 3.0
    homes = {f"toy {number}": Home(sys.executable) for number in range(3)}
    made = recipe(pairs=3, delay=0.01, n_positions=8192)
    with closing(Pool(made, cluster.address, Size(2, 2), homes=homes)) as pool, served(pool) as address:
        print(json.dumps(asyncio.run(scenario(address, pool))), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
