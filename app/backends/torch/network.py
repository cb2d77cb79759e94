"""A Llama's weights where they are to be used, and its output layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from app.backends.torch.llama import SPARE_ROWS, Operations, Shape, Stage
from app.backends.torch.operations import Plain
from app.backends.torch.programs import at
from app.backends.torch.ranks import Ranks

Tensor = Any
AGREEMENT = 0.02
"""Between fused kernels and torch's own operations: the root mean square of the difference in parts of the values',
some times what bf16 rounds."""


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
    """The fused kernels, or torch's own operations and why: no CUDA, no Triton, no compiler for it, no room on this
    card for what they hold of heads of this shape."""
    plain, device = Plain(), network.stages[0].device
    if device.type != "cuda":
        return plain, f"the device is {device.type}"
    try:
        from app.backends.torch.kernels import Fused

        fused: Operations = Fused()
        with at(device), torch.inference_mode():
            fault = deviation(fused, plain, network)
    except Exception as error:  # Triton compiles by tools of this machine: any of them may be missing
        fault = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
    return (fused, None) if fault is None else (plain, fault)


def deviation(operations: Operations, plain: Operations, network: Network) -> str | None:
    """Which of the operations computes something else than torch's own, on random values of the network's shape and in
    windows of two rows and of many; None: none does."""
    stage, shape, begin = network.stages[0], network.shape, 120
    device, dtype, norm = stage.device, network.dtype, stage.layers[0].norm
    generator = torch.Generator(device).manual_seed(0)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype)

    heads = shape.heads + 2 * shape.kv_heads
    for rows in (2, SPARE_ROWS):
        given = {
            "add_norm": (values(rows, len(norm)), values(rows, len(norm)), norm, shape.eps),
            "silu_mul": (values(rows, 4096),),
        }
        qkv, held = values(rows, heads * shape.head_size), values(2, shape.kv_heads, 256, shape.head_size)
        position = torch.tensor([begin], device=device)
        answers = []
        for each in (operations, plain):
            keys, cached = held.clone().unbind(0)
            place = each.angles(position, rows, stage.frequencies, begin + rows, shape)
            answers.append({
                "add_norm": torch.cat(each.add_norm(*given["add_norm"])),
                "silu_mul": each.silu_mul(*given["silu_mul"]),
                "attend": each.attend(qkv, (keys, cached), place, shape),
                "the cache": torch.cat((keys, cached)),
            })  # fmt: skip
        for name, expected in answers[1].items():
            apart = (answers[0][name].float() - expected.float()).norm() / expected.float().norm()
            if not float(apart) < AGREEMENT:
                return f"{name} of {rows} rows is {float(apart):.1g} from torch's own here"
    return None


def head(network: Network, hidden: Tensor) -> Tensor:
    """Logits, float32 [n, V], of final states [n, hidden]."""
    logits = functional.linear(hidden, network.stages[-1].head)
    if network.ranks is not None and network.parted_head:
        logits = network.ranks.gather(logits)
    logits = logits.float()
    return logits if network.never is None else logits.index_fill(-1, network.never, -torch.inf)
