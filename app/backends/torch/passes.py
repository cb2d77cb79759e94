"""Passes and draws as programs over fixed tensors: what a window's ids become logits and states by."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.backends.torch import devices, llama, warp
from app.backends.torch.llama import Cache, Operations, Stage
from app.backends.torch.network import Network, head
from app.backends.torch.operations import Plain
from app.backends.torch.programs import Program
from app.backends.torch.rows import Drawn
from app.record.trace import Sampling

Tensor = Any
Pool = Callable[[Any], Any]
"""What programs on a device share; see `programs.Program`."""


@dataclass(frozen=True, slots=True)
class Scored:
    """logits: float32 [rows, V]. states: [rows, hidden], behind the last norm."""

    logits: Tensor
    states: Tensor


class Pass:
    """A program of a fixed width over one KV cache, stage by stage."""

    def __init__(
        self,
        network: Network,
        operations: Operations,
        pool: Pool,
        caches: list[Cache],
        width: int,
        end: int,
        length: int,
    ) -> None:
        """length: of the text in the cache, behind which a recording's own runs write."""
        first = network.stages[0]
        self._host = torch.zeros(1 + width, dtype=torch.int64, pin_memory=first.device.type == "cuda")
        self._staged = self._host.numpy()  # NumPy writes a few numbers in a fraction of the time torch takes
        self._inputs = [torch.zeros(1 + width, dtype=torch.int64, device=stage.device) for stage in network.stages]
        """By stage: where the window begins, and its ids."""
        self._before = None
        if first.fusion is not None:
            self._before = first.fusion.new_zeros(width, first.fusion.shape[1])
        self._between = [
            torch.zeros(width, stage.layers[0].norm.shape[0], dtype=network.dtype, device=stage.device)
            for stage in network.stages[1:]
        ]
        self.programs = []
        for inputs in self._inputs:
            inputs[0] = length
        with torch.inference_mode():
            for number, cache in enumerate(caches):
                function = self._function(network, operations, cache, number, end)
                device = network.stages[number].device
                self.programs.append(Program(function, device, pool(device)))

    def _function(
        self, network: Network, operations: Operations, cache: Cache, number: int, end: int
    ) -> Callable[[], Any]:
        stage, inputs = network.stages[number], self._inputs[number]
        if stage.device.type != "cuda":  # layers that no GPU had room for; fused kernels are CUDA's
            operations = Plain()

        def function() -> Any:
            x = self._between[number - 1] if number else inputs[1:]
            before = None if number else self._before
            x = llama.run_stage(stage, network.shape, cache, x, inputs[:1], end, operations, network.reduce, before)
            return x if stage.norm is None else Scored(head(network, x), x)

        return function

    def run(self, token_ids: Ids[int], position: int, before: Tensor | None) -> Scored:
        """Of the width's rows, the first of them those of the ids; not waited for. before [ids, 2 hidden]: what a draft
        that reads states reads beside them."""
        staged, count = self._staged, len(token_ids)
        staged[0], staged[1 : 1 + count], staged[1 + count :] = position, token_ids, 0
        if self._before is not None:  # unused rows may hold what they held: nothing attends to them
            given = self._before[:count]
            given.zero_() if before is None else given.copy_(before)
        x: Any = None
        for number, program in enumerate(self.programs):
            self._inputs[number].copy_(self._host, non_blocking=True)
            if number:
                self._between[number - 1].copy_(x)
            x = program.run()
        scored: Scored = x
        return scored


def read(
    network: Network, caches: list[Cache], operations: Operations, token_ids: Ids[int], position: int, before: Any
) -> Tensor:
    """The states of a pass of as many rows as there are ids, not recorded; [ids, hidden]."""
    first = network.stages[0]
    x = torch.tensor(token_ids, device=first.device)
    if before is not None and first.device.type == "cpu":
        first, before = _narrowed(first, before)
    for stage, cache in zip((first, *network.stages[1:]), caches, strict=True):
        start = torch.tensor([position], device=stage.device)
        end = position + len(token_ids)
        own = before if stage is first else None
        x = llama.run_stage(
            stage, network.shape, cache, x.to(stage.device), start, end, operations, network.reduce, own
        )
    return x


def _narrowed(stage: Stage, before: Tensor) -> tuple[Stage, Tensor]:
    """A row is of the target's states or of the draft's own, its other half 0: what is 0 in all rows is not
    multiplied."""
    fusion: Tensor = stage.fusion
    half = before.shape[1] // 2
    for part, rest in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
        if not before[:, rest].any():
            return replace(stage, fusion=fusion[:, part]), before[:, part]
    return stage, before


class Step:
    """The draw of a drafted token from a row of logits, recorded where programs are."""

    def __init__(self, device: Any, pool: Pool, kind: warp.Kind, size: int) -> None:
        exact, pinned = warp.exact(device), device.type == "cuda"
        self._logits = torch.zeros(size, dtype=torch.float32, device=device)
        self._values = torch.ones(3, dtype=exact, device=device)
        self._host = torch.zeros(3, dtype=exact, pin_memory=pinned)
        self._few = torch.zeros(4, dtype=exact, pin_memory=pinned)
        self._staged, self._answer = self._host.numpy(), self._few.numpy()
        self.program = Program(lambda: warp.step(self._logits, kind, self._values), device, pool(device))
        self._device = device

    def run(self, logits: Tensor, sampling: Sampling, coin: float) -> Drawn:
        """The draw from a row of logits [V] by the coin; its probabilities are a copy, where they are not one-hot."""
        self._staged[:] = warp.scalars(sampling, coin)
        self._logits.copy_(logits)
        self._values.copy_(self._host, non_blocking=True)
        probs, few = self.program.run()
        kept = None if probs is None else probs.clone()
        self._few.copy_(few, non_blocking=True)
        devices.synchronize(self._device)
        return Drawn(coin, self._answer.tolist(), kept)
