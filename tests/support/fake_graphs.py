"""CUDA graphs on the processor: what is recorded runs again on the tensors it was recorded on, and nothing else.

As strict as CUDA is: while it records, a function may not look at a value, make a tensor of the host's numbers, draw at
random or give back as many rows as there happen to be; what it returned then holds nothing until a replay; and a replay
may overwrite what programs left that were recorded later with the same pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.backends.torch import model

ILLEGAL = "operation not permitted when stream is capturing"
LOOKS = ("tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__", "__index__")
FORBIDDEN = {
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "is_nonzero", "equal", "lift_fresh", "nonzero", "masked_select", "normal_")
} | {torch.ops.aten.uniform_, torch.ops.aten.random_, torch.ops.aten.randn, torch.ops.aten.rand}


def _refuse(*_: object, **__: object) -> None:
    raise RuntimeError(ILLEGAL)


@dataclass(frozen=True, slots=True)
class Stream:
    device: Any

    def wait_stream(self, _: Stream) -> None: ...


class Graph(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    """A recorded program."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.later: list[Graph] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in FORBIDDEN:
            _refuse()
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for other in self.later:
            other.forget()
        with torch.inference_mode():
            for func, args, kwargs, result in self.calls:
                for held, made in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(held, torch.Tensor) and held.data_ptr() != made.data_ptr():
                        held.copy_(made)

    def forget(self) -> None:
        """Nothing that is computed here is there before a replay."""
        given: set[int] = set()
        own: dict[int, Any] = {}
        for _, args, kwargs, result in self.calls:
            given |= {each.data_ptr() for each in _storages((args, kwargs))} - set(own)
            own |= {each.data_ptr(): each for each in _storages(result) if each.data_ptr() not in given}
        for storage in own.values():
            storage.fill_(255)


def _storages(values: Any) -> list[Any]:
    return [each.untyped_storage() for each in tree_leaves(values) if type(each) is torch.Tensor]


@contextmanager
def _recorded(graph: Graph, pool: list[Graph], stream: Stream, capture_error_mode: str) -> Iterator[None]:
    assert isinstance(stream.device, torch.device)
    assert capture_error_mode == "thread_local"
    with ExitStack() as stack:
        for name in LOOKS:
            stack.enter_context(patch.object(torch.Tensor, name, _refuse))
        stack.enter_context(patch.object(torch.cuda, "synchronize", _refuse))
        stack.enter_context(graph)
        yield
    graph.forget()
    for earlier in pool:
        earlier.later.append(graph)
    pool.append(graph)


def record_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs recorded where there is no CUDA."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _recorded)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _=None: None)
    monkeypatch.setattr(model, "pool_of", lambda device, graphs: [] if graphs else None)
