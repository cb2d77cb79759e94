"""Functions over fixed tensors, recorded once as CUDA graphs where there is CUDA and called as they are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from app.backends.torch.ranks import RankGone

Tensor = Any
WARM_UPS = 2
"""Runs before a recording: kernels are compiled and libraries take their workspaces, which a recording may not."""


class Program:
    """`function()` reads and returns tensors that stay where they are; `run` repeats it on what they hold by then."""

    def __init__(self, function: Callable[[], Any], device: Any, pool: Any) -> None:
        """pool: memory shared by programs that never run at once, where a run may overwrite what those recorded later
        left; None: not recorded."""
        self._function, self._device, self._graph, self._result = function, device, None, None
        self.fault: str | None = None
        """Why it could not be recorded."""
        if pool is None:
            return
        try:
            self._record(device, pool)
        except RuntimeError as error:
            if isinstance(error, (torch.OutOfMemoryError, RankGone)):
                raise
            self._graph, self.fault = None, str(error).splitlines()[0]

    def _record(self, device: Any, pool: Any) -> None:
        function = self._function
        stream = _stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        # without a stream of this device torch takes one that it made on whichever device was recorded on first, and
        # what another device computes is not recorded; what other threads do meanwhile is no fault of this one
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._result = function()
        self._graph = graph

    def run(self) -> Any:
        """The function's tensors, without waiting for the device; good until the next run."""
        if self._graph is None:
            with at(self._device):
                return self._function()
        self._graph.replay()
        return self._result


@cache
def _stream(device: Any) -> Any:
    """For all recordings there: cuBLAS keeps a workspace, 32 MiB on some cards, for every stream it ran on."""
    return torch.cuda.Stream(device)


def at(device: Any) -> AbstractContextManager[None]:
    """Triton starts its kernels on the current GPU, wherever their tensors are."""
    context: AbstractContextManager[None] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    return context


def pool_of(device: Any, graphs: bool) -> Any:
    """What programs on that device may share; None where none are recorded."""
    return torch.cuda.graph_pool_handle() if graphs and device.type == "cuda" else None
