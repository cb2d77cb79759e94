"""Llama pairs on PyTorch: CUDA, whatever other accelerator torch has, or the processor.

The Llama is ours (`llama`), over static caches: a pass of one to sixteen rows runs on a program of a few fixed widths,
and is recorded once as a CUDA graph where there is CUDA. Whether a row's logits depend on the window it was scored in
is found out at load (`identity`), not promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ids
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.backends.torch import devices, int4, llama, passes, warp
from app.backends.torch import ranks as ranks_
from app.backends.torch.llama import Cache, Operations
from app.backends.torch.network import Network, fused_operations, head
from app.backends.torch.operations import Plain
from app.backends.torch.programs import Program, pool_of
from app.backends.torch.rows import DeviceRows, to_host
from app.backends.torch.sight import DeviceSight
from app.engine.model import Logits, States
from app.engine.scored import HostRows, Rows
from app.errors import ModelError, PairError
from app.record.trace import Sampling

Tensor = Any
PREFILL = 512  # tokens scored at once while a prompt is read: bounds the activations' memory
WIDTHS = (2, 4, 8, 16)
"""Rows a program may have on an accelerator, where a few rows more cost next to nothing. On the processor they do cost,
and nothing is recorded: there a pass has the rows it needs."""
LEAST_END = 4096
"""Cache positions a recorded program can read; doubled where a text grows longer, by another recording."""


class TorchModel:
    """Weights on one device, or spread by layers over several; see `app.engine.model.Model`."""

    windows: tuple[int, ...] | None = None
    max_sequences: int | None = None

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
        states: bool = False,
    ) -> None:
        """kept_ids: the ids a trimmed output layer covers, [kept_ids]. graphs, fused: record programs and use the fused
        kernels, where there is CUDA. states: whether its caches give states."""
        self.network, self.name, self.dtype = network, name, dtype
        self.n_positions, self.vocab_size, self.num_parameters = n_positions, vocab_size, num_parameters
        self.kept_ids = kept_ids
        self.places = None if kept_ids is None else torch.from_numpy(kept_ids).to(network.stages[-1].device)
        self.reads_states = network.stages[0].fusion is not None
        self.state_width: int | None = network.width if states else None
        self.bit_identical = False
        self.row_difference: float | None = None  # between logits of one row in several windows; None: not looked for
        self.first, self.last = network.stages[0].device, network.stages[-1].device
        of = 1 if network.ranks is None else network.ranks.part.of
        self.device = f"{of} × " * (of > 1) + ", ".join(
            dict.fromkeys(devices.device_name(stage.device) for stage in network.stages)
        )
        self.rows_stay = self.last.type != "cpu"
        """Whether warp and draw are made where the logits are; in main memory NumPy's are the faster ones."""
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
        return of * sum(int4.num_bytes(each) for stage in self.network.stages for each in stage.tensors())

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

    def new_sight(self, width: int) -> DeviceSight:
        """See `app.engine.sight.sight_of`."""
        return DeviceSight(width, self.first, self.network.dtype)

    def restrict(self, vocab_size: int, never: Iterable[int]) -> None:
        """Before its first sequence: give ids of `never`, and those from vocab_size on, the logit -inf."""
        assert not self._made, "programs are recorded with what they may say"
        ids = np.arange(self.vocab_size) if self.kept_ids is None else self.kept_ids
        banned = np.flatnonzero((ids >= vocab_size) | np.isin(ids, list(never)))
        self.network = replace(self.network, never=torch.from_numpy(banned).to(self.last))

    def own_sequence(self, number: int) -> TorchSequence:
        """A new cache, by whose number the ranks of tensor parallelism know it."""
        return TorchSequence(self, number)

    def pass_pool(self, device: Any) -> Any:
        """Memory for passes recorded on a device; None where nothing is. What one leaves lasts until the next."""
        return self._pool("passes", device)

    def draw_pool(self, device: Any) -> Any:
        """Memory for draws. Not that of passes: a draw would overwrite what the pass before it left, where the pass was
        recorded later."""
        return self._pool("draws", device)

    def _pool(self, what: str, device: Any) -> Any:
        if not self.graphs:
            return None
        if (what, device) not in self._pools:
            self._pools[what, device] = pool_of(device, True)
        return self._pools[what, device]

    def programs(self) -> list[Program]:
        """Of the caches that nobody uses now, with why one was not recorded."""
        passes_ = [each for cache in self._free for each in cache._passes.values()]
        draws = [step.program for cache in self._free for step in cache._steps.values()]
        return [*(program for each in passes_ for program in each.programs), *draws]

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
        self._passes: dict[tuple[int, int], passes.Pass] = {}
        self._steps: dict[warp.Kind, passes.Step] = {}
        self._values: tuple[Sampling, Tensor] | None = None
        self._states: list[Tensor] = []

    @property
    def states(self) -> States:
        """On the last device; see `app.engine.model.StatesCache`."""
        assert self._model.state_width is not None, "the model was not loaded to give states"
        return self._states[0] if len(self._states) == 1 else torch.cat(self._states)

    def forward(self, token_ids: Ids[int], num_logits: int, before: States | None = None) -> Logits:
        logits: Logits = to_host(self._score(token_ids, num_logits, before))
        return logits

    def score(
        self,
        token_ids: Ids[int],
        num_logits: int,
        sampling: Sampling,
        unusable: Callable[[int], Exception],
        coin: float | None = None,
        before: States | None = None,
    ) -> Rows:
        """As `forward`, with the warp, and the draw from the last row by the coin, on the device."""
        if not self._model.rows_stay:
            return HostRows(self._score(token_ids, num_logits, before).numpy(), sampling, unusable)
        values = self._scalars(sampling)
        following = None
        if num_logits > 1 and sampling.temperature:
            # an id beyond the vocabulary has no chance, whatever stands for it here
            ids = [min(token, self._model.network.vocab_size - 1) for token in token_ids[1 - num_logits :]]
            following = torch.tensor(ids, device=self._model.last)
        logits = self._score(token_ids, num_logits, before)
        try:
            with torch.inference_mode():
                if coin is None or num_logits > 1:
                    return DeviceRows(logits, sampling, unusable, values, following=following)
                kind = warp.Kind.of(sampling)
                if kind not in self._steps:
                    self._steps[kind] = passes.Step(self._model.last, self._model.draw_pool, kind, logits.shape[1])
                drawn = self._steps[kind].run(logits[-1], sampling, coin)
                return DeviceRows(
                    logits[-1:].clone(), sampling, unusable, values, drawn=drawn, places=self._model.places
                )
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

    def _score(self, token_ids: Ids[int], num_logits: int, before: States | None) -> Tensor:
        """Logits [num_logits, V] on the last device, good until the next pass."""
        count, model = len(token_ids), self._model
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= model.n_positions, (self.length, count, model.n_positions)
        assert before is None or model.reads_states, "the model reads no states"
        self._states = []
        try:
            if before is not None:
                before = torch.as_tensor(before, dtype=model.network.dtype, device=model.first)
            while count - num_logits >= PREFILL:
                self._told(token_ids[:PREFILL], 0, before)
                token_ids, count = token_ids[PREFILL:], count - PREFILL
                before = None if before is None else before[PREFILL:]
            return self._told(token_ids, num_logits, before)
        except devices.FAULTS as error:
            raise devices.fault(f"A pass of {model.name} failed", error, ModelError) from error

    def _told(self, token_ids: Ids[int], num_logits: int, before: Tensor | None) -> Tensor:
        """A pass that all ranks of tensor parallelism do."""
        before = None if before is None else before[: len(token_ids)]
        if (ranks := self._model.network.ranks) is not None:
            ranks.announce(ranks_.PASS, self._model.number, self.number, self.length, num_logits, token_ids, before)
        logits, states = self.score_here(token_ids, num_logits, before)
        if self._model.state_width is not None:
            self._states.append(states)
        return logits

    def score_here(self, token_ids: Ids[int], num_logits: int, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """This rank's part of a pass: its logits (num_logits 0: none) and states. before: [ids, 2 hidden] on the first
        device."""
        model, count = self._model, len(token_ids)
        with torch.inference_mode():
            width = model.width(count) if self.length else None
            if width is None:
                states = passes.read(model.network, self._caches, Plain(exact=True), token_ids, self.length, before)
                logits = head(model.network, states[count - num_logits :]) if num_logits else None
            else:
                scored = self._pass(width, self.length + width).run(token_ids, self.length, before)
                states, logits = scored.states[:count], scored.logits[count - num_logits : count]
            self.length += count
            return logits, states

    def _pass(self, width: int, end: int) -> passes.Pass:
        model = self._model
        if model.graphs:
            reach = LEAST_END
            while reach < end:
                reach *= 2
            end = min(reach, model.n_positions + llama.SPARE_ROWS)
        if (width, end) not in self._passes:
            if not model.graphs:
                self._passes.clear()  # not recorded, a pass holds nothing worth keeping
            self._passes[width, end] = passes.Pass(
                model.network, model.operations, model.pass_pool, self._caches, width, end, self.length
            )
        return self._passes[width, end]
