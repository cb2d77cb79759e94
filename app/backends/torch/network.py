"""A Llama's weights where they are to be used, and its output layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from app.backends.torch.llama import Operations, Shape, Stage
from app.backends.torch.operations import Plain
from app.backends.torch.ranks import Ranks

Tensor = Any


@dataclass(frozen=True, slots=True)
class Network:
    """A Llama's weights where they are to be used. vocab_size: rows of the whole output layer."""

    stages: tuple[Stage, ...]
    shape: Shape
    vocab_size: int
    dtype: Any
    ranks: Ranks | None = None
    """The processes that each have a part, where there are several."""
    parted_head: bool = False
    """Whether the output layer's rows are shared among them."""

    never: Tensor | None = None
    """Rows of the output layer that are not to be said, int64 [n]."""

    @property
    def width(self) -> int:
        """Of its states."""
        return int(self.stages[0].layers[0].norm.shape[0])

    def reduce(self, partial: Tensor) -> Tensor:
        """The sum of a partial product over the ranks."""
        return partial if self.ranks is None else self.ranks.reduce(partial)


def fused_operations(network: Network) -> tuple[Operations, str | None]:
    """The fused kernels, or torch's own operations and why: no CUDA, no Triton, no compiler for it."""
    plain, device = Plain(), network.stages[0].device
    if device.type != "cuda":
        return plain, f"the device is {device.type}"
    try:
        from app.backends.torch.kernels import Fused

        given = torch.linspace(-2, 2, 64, dtype=network.dtype, device=device).view(2, 32)
        if not torch.allclose(Fused().silu_mul(given).float(), plain.silu_mul(given).float(), atol=1e-2):
            return plain, "they compute something else here"
        return Fused(), None
    except Exception as error:  # Triton compiles by tools of this machine: any of them may be missing
        return plain, f"{type(error).__name__}: {error}".splitlines()[0]


def head(network: Network, hidden: Tensor) -> Tensor:
    """Logits, float32 [n, V], of final states [n, hidden]."""
    logits = functional.linear(hidden, network.stages[-1].head)
    if network.ranks is not None and network.parted_head:
        logits = network.ranks.gather(logits)
    logits = logits.float()
    return logits if network.never is None else logits.index_fill(-1, network.never, -torch.inf)
