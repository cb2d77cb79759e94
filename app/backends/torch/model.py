"""Llama pairs on PyTorch: CUDA, whatever other accelerator torch has, or the processor.

The Llama is ours (`llama`), over static caches: a pass of one to sixteen rows runs on a program of a few fixed widths,
and is recorded once as a CUDA graph where there is CUDA. Whether a row's logits depend on the window it was scored in
is found out at load (`identity`), not promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from app.backends.torch import devices, llama, warp
from app.backends.torch import ranks as ranks_
from app.backends.torch.llama import Cache, Operations, Shape, Stage
from app.backends.torch.operations import Plain
from app.backends.torch.programs import Program, pool_of
from app.backends.torch.ranks import Ranks
from app.backends.torch.rows import DeviceRows, Drawn, to_host
from app.engine.model import Logits
from app.errors import ModelError, PairError
from app.record.trace import Sampling

Tensor = Any
PREFILL = 512  # tokens scored at once while a prompt is read: bounds the activations' memory
WIDTHS = (2, 4, 8, 16)
"""Rows a program may have on an accelerator, where a few rows more cost next to nothing. On the processor they do cost,
and nothing is recorded: there a pass has the rows it needs."""
LEAST_END = 4096
"""Cache positions a recorded program can read; doubled where a text grows longer, by another recording."""


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

    def reduce(self, partial: Tensor) -> Tensor:
        """The sum of a partial product over the ranks."""
        return partial if self.ranks is None else self.ranks.reduce(partial)


class TorchModel:
    """Weights on one device, or spread by layers over several; see `app.engine.model.Model`."""

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None
    state_width: int | None = None
    reads_states = False

    def __init__(
        self,
        network: Network,
        *,
        name: str,
        dtype: str,
        n_positions: int,
        vocab_size: int,
        num_parameters: int,
        kept_ids: NDArray[np.int64] | None = None,
        graphs: bool = True,
        fused: bool = True,
    ) -> None:
        """kept_ids: the ids a trimmed output layer covers, [kept_ids]. graphs, fused: record programs and use the fused
        kernels, where there is CUDA."""
        self.network, self.name, self.dtype = network, name, dtype
        self.n_positions, self.vocab_size, self.num_parameters = n_positions, vocab_size, num_parameters
        self.kept_ids = kept_ids
        self.bit_identical = False
        self.row_difference: float | None = None  # between logits of one row in several windows; None: not looked for
        self.first, self.last = network.stages[0].device, network.stages[-1].device
        of = 1 if network.ranks is None else network.ranks.part.of
        self.device = f"{of} × " * (of > 1) + ", ".join(
            dict.fromkeys(devices.device_name(stage.device) for stage in network.stages)
        )
        self.graphs = graphs and all(stage.device.type == "cuda" for stage in network.stages)
        self._pools: dict[Any, Any] = {}
        self.widths: tuple[int, ...] = () if self.first.type == "cpu" else WIDTHS
        self.operations: Operations = Plain()
        self.unfused: str | None = "not asked for"  # why the fused kernels are not used; None where they are
        if fused:
            self.operations, self.unfused = fused_operations(network)
        self.number = 0 if network.ranks is None else network.ranks.add(self)
        self._made = 0
        self._free: list[TorchSequence] = []

    def memory(self) -> int:
        of = 1 if self.network.ranks is None else self.network.ranks.part.of
        return of * sum(int(each.nbytes) for stage in self.network.stages for each in stage.tensors())

    def new_sequence(self, windows: Ids[int] = ()) -> TorchSequence:
        if self._free:
            sequence = self._free.pop()
        else:
            sequence = self.own_sequence(self._made)
            self._made += 1
        try:
            if (ranks := self.network.ranks) is not None:
                ranks.announce(ranks_.OPEN, self.number, sequence.number, 0, 0, windows)
            sequence.prepare_for(windows)
        except devices.FAULTS as error:
            raise devices.fault(f"{self.name} cannot run on {self.device}", error, PairError) from error
        return sequence

    def restrict(self, vocab_size: int, never: Iterable[int]) -> None:
        """Before its first sequence: give ids of `never`, and those from vocab_size on, the logit -inf."""
        assert not self._made, "programs are recorded with what they may say"
        ids = np.arange(self.vocab_size) if self.kept_ids is None else self.kept_ids
        banned = np.flatnonzero((ids >= vocab_size) | np.isin(ids, list(never)))
        self.network = replace(self.network, never=torch.from_numpy(banned).to(self.last))

    def own_sequence(self, number: int) -> TorchSequence:
        """A new cache, by whose number the ranks of tensor parallelism know it."""
        return TorchSequence(self, number)

    def pool(self, device: Any) -> Any:
        """Memory for what is recorded on a device; None where nothing is."""
        if not self.graphs:
            return None
        if device not in self._pools:
            self._pools[device] = pool_of(device, True)
        return self._pools[device]

    def width(self, rows: int) -> int | None:
        """Rows of the program for a window of that many; None: as many as there are."""
        return next((width for width in self.widths if width >= rows), None)


class TorchSequence:
    """One KV cache of a fixed size; see `app.engine.model.Sequence`."""

    def __init__(self, model: TorchModel, number: int = -1) -> None:
        self._model, self.number = model, number
        network = model.network
        try:
            self._caches = [
                Cache.empty(stage, network.shape, model.n_positions, network.dtype) for stage in network.stages
            ]
        except devices.FAULTS as error:
            raise devices.fault(f"A KV cache of {model.name} cannot be made", error, ModelError) from error
        self.length = 0
        self._passes: dict[tuple[int, int], _Pass] = {}
        self._steps: dict[warp.Kind, _Step] = {}
        self._values: tuple[Sampling, Tensor] | None = None

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        logits: Logits = to_host(self._score(token_ids, num_logits))
        return logits

    def score(
        self,
        token_ids: Ids[int],
        num_logits: int,
        sampling: Sampling,
        unusable: Callable[[int], Exception],
        coin: float | None = None,
    ) -> DeviceRows:
        """As `forward`, with the warp, and the draw from the last row by the coin, on the device."""
        values = self._scalars(sampling)
        following = None
        if num_logits > 1 and sampling.temperature:
            # an id beyond the vocabulary has no chance, whatever stands for it here
            ids = [min(token, self._model.network.vocab_size - 1) for token in token_ids[1 - num_logits :]]
            following = torch.tensor(ids, device=self._model.last)
        logits = self._score(token_ids, num_logits)
        try:
            with torch.inference_mode():
                if coin is None or num_logits > 1:
                    return DeviceRows(logits, sampling, unusable, values, following=following)
                kind = warp.Kind.of(sampling)
                if kind not in self._steps:
                    self._steps[kind] = _Step(self._model, kind, logits.shape[1])
                drawn = self._steps[kind].run(logits[-1], sampling, coin)
                return DeviceRows(logits[-1:].clone(), sampling, unusable, values, drawn=drawn)
        except devices.FAULTS as error:
            raise devices.fault(f"A draw of {self._model.name} failed", error, ModelError) from error

    def _scalars(self, sampling: Sampling) -> Tensor:
        """`warp.scalars` on the device: sent before the pass whose rows want them, so that nothing waits for it."""
        if self._values is None or self._values[0] != sampling:
            device = self._model.last
            values = torch.tensor(warp.scalars(sampling), dtype=warp.exact(device), device=device)
            self._values = (sampling, values)
        return self._values[1]

    def prepare_for(self, windows: Ids[int]) -> None:
        """Record the programs of passes of so many rows, so that no pass pays for it."""
        for width in sorted({self._model.width(rows) or 0 for rows in windows}):
            if width and self._model.graphs:
                self._pass(width, width)

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def close(self) -> None:
        self.length = 0
        self._model._free.append(self)

    def _score(self, token_ids: Ids[int], num_logits: int) -> Tensor:
        """Logits [num_logits, V] on the last device, good until the next pass."""
        count, model = len(token_ids), self._model
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= model.n_positions, (self.length, count, model.n_positions)
        try:
            while count - num_logits >= PREFILL:
                self._told(token_ids[:PREFILL], 0)
                token_ids, count = token_ids[PREFILL:], count - PREFILL
            return self._told(token_ids, num_logits)
        except devices.FAULTS as error:
            raise devices.fault(f"A pass of {model.name} failed", error, ModelError) from error

    def _told(self, token_ids: Ids[int], num_logits: int) -> Tensor:
        """A pass that all ranks of tensor parallelism do."""
        if (ranks := self._model.network.ranks) is not None:
            ranks.announce(ranks_.PASS, self._model.number, self.number, self.length, num_logits, token_ids)
        return self.score_here(token_ids, num_logits)

    def score_here(self, token_ids: Ids[int], num_logits: int) -> Tensor:
        """This rank's part of a pass; num_logits 0: into the cache only."""
        count = len(token_ids)
        with torch.inference_mode():
            width = self._model.width(count) if self.length else None
            if width is None:
                return self._read(token_ids, num_logits)
            logits = self._pass(width, self.length + width).run(token_ids, self.length)
            self.length += count
            return logits[count - num_logits : count]

    def _read(self, token_ids: Ids[int], num_logits: int) -> Tensor:
        """A pass of as many rows as there are ids, not recorded."""
        network, count = self._model.network, len(token_ids)
        x = torch.tensor(token_ids, device=self._model.first)
        operations = Plain(exact=True)
        for stage, cache in zip(network.stages, self._caches, strict=True):
            position = torch.tensor([self.length], device=stage.device)
            end = self.length + count
            x = llama.run_stage(
                stage, network.shape, cache, x.to(stage.device), position, end, operations, network.reduce
            )
        self.length += count
        return None if num_logits == 0 else head(network, x[count - num_logits :])

    def _pass(self, width: int, end: int) -> _Pass:
        model = self._model
        if model.graphs:
            reach = LEAST_END
            while reach < end:
                reach *= 2
            end = min(reach, model.n_positions + llama.SPARE_ROWS)
        if (width, end) not in self._passes:
            if not model.graphs:
                self._passes.clear()  # not recorded, a pass holds nothing worth keeping
            self._passes[width, end] = _Pass(model, self._caches, width, end, self.length)
        return self._passes[width, end]


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


class _Pass:
    """A program of a fixed width over one KV cache, stage by stage."""

    def __init__(self, model: TorchModel, caches: list[Cache], width: int, end: int, length: int) -> None:
        """length: of the text in the cache, behind which a recording's own runs write."""
        network = model.network
        self._host = torch.zeros(1 + width, dtype=torch.int64, pin_memory=model.first.type == "cuda")
        self._inputs = [torch.zeros(1 + width, dtype=torch.int64, device=stage.device) for stage in network.stages]
        """By stage: where the window begins, and its ids."""
        self._between = [
            torch.zeros(width, stage.layers[0].norm.shape[0], dtype=network.dtype, device=stage.device)
            for stage in network.stages[1:]
        ]
        self._programs = []
        for inputs in self._inputs:
            inputs[0] = length
        with torch.inference_mode():
            for number, (stage, cache) in enumerate(zip(network.stages, caches, strict=True)):
                function = self._function(model, stage, cache, number, end)
                self._programs.append(Program(function, stage.device, model.pool(stage.device)))

    def _function(self, model: TorchModel, stage: Stage, cache: Cache, number: int, end: int) -> Callable[[], Tensor]:
        network, inputs = model.network, self._inputs[number]

        def function() -> Tensor:
            x = inputs[1:] if number == 0 else self._between[number - 1]
            x = llama.run_stage(stage, network.shape, cache, x, inputs[:1], end, model.operations, network.reduce)
            return x if stage.norm is None else head(network, x)

        return function

    def run(self, token_ids: Ids[int], position: int) -> Tensor:
        """Logits of the width's rows, the first of them those of the ids; not waited for."""
        self._host.zero_()
        self._host[0] = position
        self._host[1 : 1 + len(token_ids)] = torch.tensor(token_ids)
        x = None
        for number, program in enumerate(self._programs):
            self._inputs[number].copy_(self._host, non_blocking=True)
            if number:
                self._between[number - 1].copy_(x)
            x = program.run()
        return x


class _Step:
    """The draw of a drafted token from a row of logits, recorded where programs are."""

    def __init__(self, model: TorchModel, kind: warp.Kind, size: int) -> None:
        exact, pinned = warp.exact(model.last), model.last.type == "cuda"
        self._logits = torch.zeros(size, dtype=torch.float32, device=model.last)
        self._values = torch.ones(3, dtype=exact, device=model.last)
        self._host = torch.zeros(3, dtype=exact, pin_memory=pinned)
        self._few = torch.zeros(4, dtype=exact, pin_memory=pinned)
        self._program = Program(lambda: warp.step(self._logits, kind, self._values), model.last, model.pool(model.last))
        self._device = model.last

    def run(self, logits: Tensor, sampling: Sampling, coin: float) -> Drawn:
        """The draw from a row of logits [V] by the coin; its probabilities are a copy."""
        self._host.copy_(torch.tensor(warp.scalars(sampling, coin), dtype=self._host.dtype))
        self._logits.copy_(logits)
        self._values.copy_(self._host, non_blocking=True)
        probs, few = self._program.run()
        kept = probs.clone()
        self._few.copy_(few, non_blocking=True)
        devices.synchronize(self._device)
        return Drawn(coin, self._few.tolist(), kept)
