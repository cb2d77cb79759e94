"""A pool of engines by Ray Serve, on as many machines as its cluster has: as many runs at once as there are engines.

Ray starts them, spreads runs over them, starts one that was lost again, and more where runs wait. The page stays one
process, on one of the cluster's machines.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import PairError, RequestError
from app.hosting import description
from app.hosting.described import Described
from app.hosting.process import ENDING, EVENT, LOOK_SECONDS, ROOT, EngineLostError, Home, fault_of
from app.hosting.recipe import Recipe
from app.hosting.replica import Replica
from app.places import models_dir
from app.record import trace
from app.record.trace import Event, Request, RunFinished

NAME = "speculative-playground"
"""Of the application and the namespace: a page that starts takes the place of one that was killed."""
TRIES = 3
"""Of an engine that turns out to be gone before a run begins."""
_LOST = "The engine of this run was lost (its machine, or its process). Another is being started; run it again."


@dataclass(frozen=True, slots=True)
class Size:
    """Engines there are at least, and at most: more are started while runs wait."""

    least: int = 1
    most: int = 1

    @staticmethod
    def of(text: str) -> Size:
        """N, or N-M. Raises ValueError."""
        least, dash, most = text.partition("-")
        size = Size(int(least), int(most if dash else least))
        if not 1 <= size.least <= size.most:
            raise ValueError(text)
        return size


class Pool(Described):
    """Engines of one pair, or of the pairs of a list. See `app.engine.session.Session`, whose attributes and methods it
    has; but as many runs as there are engines may be under way at once."""

    def __init__(
        self,
        recipe: Recipe,
        address: str,
        size: Size,
        *,
        homes: Mapping[str, Home] | None = None,
        settings: Mapping[str, Any] | None = None,
        gpus: bool = False,
    ) -> None:
        """Waits until the least number of engines is there. address: of the cluster; empty: one on this machine, for
        this page. homes, settings: of `ProcessEngine`. gpus: each engine takes one of the cluster's; else each takes a
        machine. Raises PlaygroundError."""
        self._ray, self._serve = _joined(address)
        self._check_machines(size, gpus)
        self.size = size
        self._handle = self._deployed(recipe, size, homes or {}, settings or {}, gpus)
        self._closed = False
        try:
            super().__init__(self._asked(""))
        except BaseException:
            self.close()
            raise

    @property
    def engines(self) -> int:
        """How many runs may be under way at once."""
        return self.size.most

    def memory(self) -> int:
        """0: the engines are elsewhere."""
        return 0

    def count(self, request: Request) -> int | None:
        """None: no engine of a pool is kept from its runs for it."""
        return None

    def run(self, request: Request, *, stopped: Callable[[], bool] | None = None) -> Generator[Event, None, None]:
        """See `Session.run`; on an engine that is free. stopped: asked while nothing is heard of it."""
        asked = json.dumps(dataclasses.asdict(request))
        for again in reversed(range(TRIES)):
            begun = False
            answer = self._of_pair(self._handle.options(stream=True)).run.remote(asked, self._name)
            try:
                with self._cancelled(answer, stopped) as cancelled:
                    for line in answer:
                        if not line.startswith(EVENT):
                            raise fault_of(json.loads(line))
                        begun = True
                        event = trace.loads(line)
                        yield event
                        if isinstance(event, RunFinished):
                            return
                if cancelled.is_set():
                    yield RunFinished("cancelled")
                    return
            except GeneratorExit:
                answer.cancel()
                raise
            except self._faults() as error:
                if cancelled.is_set():
                    yield RunFinished("cancelled")
                    return
                logging.getLogger(__name__).warning("an engine of the pool was lost: %s", type(error).__name__)
                sentence = ENDING if self._closed else _LOST
                if begun:
                    yield RunFinished("error", sentence)
                    return
                if not again:
                    raise EngineLostError(sentence) from None

    def switch(self, name: str) -> None:
        """The pair of the runs to come: one engine loads it now, the others when they are first asked for it. Raises
        PlaygroundError, and the pair stays."""
        if name not in self._described.pairs:
            raise RequestError(f"There is no pair {name!r} here; choose one of {', '.join(self._described.pairs)}.")
        if name != self._described.chosen:
            self._described = self._asked(name)

    def close(self) -> None:
        """End all engines; runs under way end by an error."""
        self._closed = True
        with suppress(Exception):  # the cluster may be gone
            self._serve.delete(NAME, _blocking=False)
        self._ray.shutdown()

    @property
    def _name(self) -> str:
        return self._described.chosen if len(self._described.pairs) > 1 else ""

    def _of_pair(self, handle: Any, name: str | None = None) -> Any:
        """The handle that asks an engine which has this pair loaded, where there is one."""
        name = self._name if name is None else name
        return handle.options(multiplexed_model_id=name) if name else handle

    def _asked(self, name: str) -> description.Description:
        """What an engine with this pair says of itself. Raises PlaygroundError."""
        try:
            message = json.loads(self._of_pair(self._handle, name).describe.remote(name).result())
        except self._faults() as error:
            raise EngineLostError(f"The engine was lost while it loaded the pair ({type(error).__name__}).") from None
        if "fault" in message:
            raise fault_of(message)
        return description.from_dict(message["description"])

    @contextmanager
    def _cancelled(self, answer: Any, stopped: Callable[[], bool] | None) -> Generator[threading.Event, None, None]:
        """While a run lasts: its answer is cancelled, and the event set, once `stopped` says so."""
        over, cancelled = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.wait(LOOK_SECONDS):
                if stopped is not None and stopped():
                    cancelled.set()
                    answer.cancel()
                    return

        watching = threading.Thread(target=watch, name="pool", daemon=True)
        watching.start()
        try:
            yield cancelled
        finally:
            over.set()

    def _faults(self) -> tuple[type[Exception], ...]:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException, RequestCancelledError

        return RayError, RayServeException, RequestCancelledError

    def _check_machines(self, size: Size, gpus: bool) -> None:
        machines = sum(node["Alive"] for node in self._ray.nodes())
        there = int(self._ray.cluster_resources().get("GPU", 0)) if gpus else machines
        if size.least > there:
            what = "GPUs" if gpus else "machines, and an engine on a processor takes one"
            self._ray.shutdown()
            raise RequestError(
                f"The cluster has {there} {what}; choose fewer --replicas, or let more join (ray start)."
            )

    def _deployed(
        self, recipe: Recipe, size: Size, homes: Mapping[str, Home], settings: Mapping[str, Any], gpus: bool
    ) -> Any:
        serve = self._serve
        options: dict[str, Any] = {
            "name": "engine",
            "max_ongoing_requests": 1,  # one run a device
            "ray_actor_options": {
                "num_cpus": 1,
                "num_gpus": 1 if gpus else 0,
                "runtime_env": {"env_vars": _environment()},
            },
            "graceful_shutdown_timeout_s": 2,
            "health_check_period_s": 2,
        }
        if not gpus:
            options["max_replicas_per_node"] = 1
        if size.least == size.most:
            options["num_replicas"] = size.least
        else:
            options["autoscaling_config"] = {
                "min_replicas": size.least,
                "max_replicas": size.most,
                "target_ongoing_requests": 1,
                "upscale_delay_s": 3,
            }
        deployment = serve.deployment(**options)(_multiplexed(serve) if homes else Replica)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        bound = deployment.bind(
            recipe.factory,
            recipe.arguments,
            {name: [home.python, home.alone] for name, home in homes.items()},
            dict(settings),
        )
        try:
            return serve.run(bound, name=NAME, route_prefix=None)
        except RuntimeError as error:
            self._ray.shutdown()
            raise PairError(f"The engines could not be started ({_first_line(error)}); see Ray's log.") from None


def _environment() -> dict[str, str]:
    """What an engine elsewhere finds as it is found here: the program, an acceptor's modules, the models."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())])
    models = {"PLAYGROUND_MODELS": str(models_dir().absolute())}
    return {"PYTHONPATH": path, **models}


def _multiplexed(serve: Any) -> type[Replica]:
    """Replicas of several pairs: Ray knows which of them is loaded where, and asks there first."""

    class Multiplexed(Replica):
        @serve.multiplexed(max_num_models_per_replica=1)  # type: ignore[untyped-decorator]
        async def load(self, name: str) -> None:
            await super().load(name)

    return Multiplexed


def _joined(address: str) -> tuple[Any, Any]:
    """Ray and Ray Serve, in the cluster. Raises PlaygroundError."""
    try:
        import ray
        from ray import serve
        from ray.exceptions import RayError
    except ImportError as error:
        raise RequestError(
            f"Ray's packages are not installed ({error}); start with ./launch.sh, which installs them, or "
            "pip install -r app/hosting/requirements-ray.txt."
        ) from None
    try:
        ray.init(
            address=address or None,
            namespace=NAME,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"include_dashboard": False}),
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise RequestError(
            f"The Ray cluster at {address} cannot be joined ({_first_line(error)}); start one by ray start --head, set "
            "RAY_AUTH_MODE=token where it has a token, or leave the address out."
        ) from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return ray, serve


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
