"""Tensor parallelism: the same program in several processes, each with its part of every matrix. Rank 0 runs the loop
and the page; the others do the passes it announces.

Started by torchrun (one machine or several), the ranks are there already; else rank 0 starts the others on this
machine, as `python -m app.backends.torch.rank`. What is announced goes over gloo, whatever carries the tensors: it is a
few numbers.
"""

from __future__ import annotations

import atexit
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from app.backends.torch.llama import Part
from app.errors import PairError

Tensor = Any
ROOT = Path(__file__).resolve().parents[3]
"""Where the package app lies."""
END, OPEN, PASS = range(3)
HEADER = 7  # numbers before the ids: what, which model, which cache, its length, rows to score, ids, width of states
LONGEST = 1024  # ids in one announcement, at most: more than a pass of a prompt has
PATIENCE = timedelta(days=30)  # a page may stand idle
JOINING = timedelta(minutes=5)
STAYS = "A process keeps the pair that tensor parallelism was started for; start the playground with that pair instead."
GONE = "Another process of tensor parallelism is gone ({reason}); start the playground again."


class RankGone(RuntimeError):  # noqa: N818 - names what happened; whoever was computing makes the person's error of it
    """Another rank does not answer any more."""

    def __init__(self, reason: object) -> None:
        first = (str(reason).splitlines() or [""])[0]
        # gloo adds where in its source, which peer, and advice
        said = re.sub(r"\s*\[[^]]*\]:?\d*\s*", " ", first).split(". ")[0].strip().rstrip(".")
        super().__init__(GONE.format(reason=said))


class Ranks:
    """The processes of one pair. One of these lives in each of them."""

    def __init__(self, rank: int, size: int, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        self.part = Part(rank, size)
        self.children = tuple(children)
        self._control: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._models: list[Any] = []
        self._begun, self._ended = False, False

    def add(self, model: Any) -> int:
        """A model of the pair, in the same order everywhere; returns its number."""
        self._models.append(model)
        return len(self._models) - 1

    def reduce(self, partial: Tensor) -> Tensor:
        """The sum of a partial product over all ranks."""
        with answered():
            dist.all_reduce(partial)
        return partial

    def gather(self, part: Tensor) -> Tensor:
        """The whole rows [n, V] of what each rank has the columns of."""
        parts = [torch.empty_like(part) for _ in range(self.part.of)]
        with answered():
            dist.all_gather(parts, part.contiguous())
        return torch.cat(parts, -1)

    def begin(self) -> None:
        """Rank 0: from here on the others follow. Until then all of them load, and check themselves, by the same
        steps."""
        self._begun = True
        atexit.register(self.end)

    def announce(
        self,
        what: int,
        model: int,
        cache: int,
        length: int,
        rows: int,
        ids: Sequence[int],
        before: Tensor | None = None,
    ) -> None:
        """Rank 0: what all ranks do next; nothing before `begin`. before [ids, width]: what a draft that reads states
        reads beside them. Raises RankGone."""
        if not self._begun:
            return
        lost = next((child for child in self.children if child.poll() is not None), None)
        if lost is not None:
            raise RankGone(f"process {lost.pid} ended with {lost.returncode}")
        width = 0 if before is None else before.shape[1]
        message = torch.zeros(HEADER + LONGEST, dtype=torch.int64)
        message[:HEADER] = torch.tensor([what, model, cache, length, rows, len(ids), width])
        message[HEADER : HEADER + len(ids)] = torch.tensor(list(ids), dtype=torch.int64)
        with answered():
            dist.broadcast(message, 0, group=self._control)
            if before is not None:
                dist.broadcast(before.contiguous(), 0)

    def follow(self) -> None:
        """The other ranks: do what is announced until the end. Raises RankGone where rank 0 is."""
        caches: dict[tuple[int, int], Any] = {}
        message = torch.zeros(HEADER + LONGEST, dtype=torch.int64)
        while True:
            with answered():
                dist.broadcast(message, 0, group=self._control)
            what, model, cache, length, rows, count, width = message[:HEADER].tolist()
            ids = message[HEADER : HEADER + count].tolist()
            if what == END:
                dist.destroy_process_group()
                return
            if (model, cache) not in caches:
                caches[model, cache] = self._models[model].own_sequence(cache)
            sequence = caches[model, cache]
            if what == OPEN:
                sequence.prepare_for(ids)
            else:
                before = None
                if width:
                    network = self._models[model].network
                    before = torch.empty(count, width, dtype=network.dtype, device=network.stages[0].device)
                    with answered():
                        dist.broadcast(before, 0)
                sequence.length = length
                sequence.score_here(ids, rows, before)

    def end(self) -> None:
        """Rank 0: let the others go, and wait for those started here."""
        if self._ended:
            return
        self._ended = True
        try:
            self.announce(END, 0, 0, 0, 0, ())
        except RankGone:  # then none is left to follow
            for child in self.children:
                child.kill()
        # in any case: a group that is left to the end of the interpreter has threads that would still ask for it,
        # and then the process aborts
        dist.destroy_process_group()
        for child in self.children:
            child.wait()


@contextmanager
def answered() -> Iterator[None]:
    """Whatever a collective raises means that another rank is gone. Raises RankGone."""
    try:
        yield
    except RuntimeError as error:
        raise RankGone(error) from error


def join(size: int, device: Any, options: str) -> Ranks:
    """This process as one of `size`. options: what a process started here is told. Raises PairError."""
    if dist.is_initialized():
        raise PairError(STAYS)
    children: list[subprocess.Popen[bytes]] = []
    given = os.environ.get("WORLD_SIZE")
    if given is not None and int(given) != size:
        raise PairError(f"--tp is {size} and torchrun started {given} processes; give both the same number.")
    environment = {}
    if given is None:
        environment = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "RANK": "0",
        }
        for rank in range(1, size):
            own = {**os.environ, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            command = [sys.executable, "-m", "app.backends.torch.rank", options]
            children.append(subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    asked = {**os.environ, **environment}
    address = f"tcp://{asked['MASTER_ADDR']}:{asked['MASTER_PORT']}"
    rank = int(asked["RANK"])
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=JOINING)
    except (RuntimeError, ValueError) as error:
        for child in children:
            child.kill()
        reason = str(error).splitlines()[0].rstrip(".")
        raise PairError(f"The {size} processes of --tp did not find each other ({reason}); start again.") from None
    return Ranks(rank, size, children)


def own_device(device: Any) -> Any:
    """The GPU of this process, by torchrun's count on its machine; the processor is everyone's."""
    if device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if own.index >= torch.cuda.device_count():
        raise PairError(
            f"--tp asks for more GPUs than the {torch.cuda.device_count()} here; choose as many as there are."
        )
    torch.cuda.set_device(own)
    return own


def check(size: int, names_and_counts: Sequence[tuple[str, int, int]]) -> None:
    """Raise PairError unless key heads and inner rows divide by the size. names_and_counts: model, key heads, inner
    size."""
    for name, heads, inner in names_and_counts:
        if heads % size or inner % size:
            fitting = [n for n in range(2, size) if heads % n == 0 and inner % n == 0]
            remedy = f"choose --tp {fitting[-1]}" if fitting else "leave --tp out"
            raise PairError(f"{name} has {heads} key heads, which {size} processes cannot share evenly; {remedy}.")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port
