"""Functions over fixed tensors, recorded once as CUDA graphs where there is CUDA and called as they are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = Any
WARM_UPS = 2
"""Runs before a recording: kernels are compiled and libraries take their workspaces, which a recording may not."""


class Program:
    """`function()` reads and returns tensors that stay where they are; `run` repeats it on what they hold by then."""

    def __init__(self, function: Callable[[], Any], device: Any, pool: Any) -> None:
        """pool: memory shared by the programs that never run at once; None: not recorded."""
        self._function, self._graph, self._result = function, None, None
        self.fault: str | None = None
        """Why it could not be recorded."""
        if pool is None:
            return
        try:
            self._record(device, pool)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self._graph, self.fault = None, str(error).splitlines()[0]

    def _record(self, device: Any, pool: Any) -> None:
        function = self._function
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool):
            self._result = function()
        self._graph = graph

    def run(self) -> Any:
        """The function's tensors, without waiting for the device; good until the next run."""
        if self._graph is None:
            return self._function()
        self._graph.replay()
        return self._result


def pool_of(device: Any, graphs: bool) -> Any:
    """What programs on that device may share; None where none are recorded."""
    return torch.cuda.graph_pool_handle() if graphs and device.type == "cuda" else None
