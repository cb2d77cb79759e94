"""A model on NeuronCores and its one KV cache, over the two primitives of transformers-neuronx.

Explicit cache ids: `forward` is a prefill from position 0 or one token at one position, `speculative_forward` a window of
a compiled size. Rollback is arithmetic: a stale slot is written again before it is attended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from typing import Any

import numpy as np

from app.backends.neuron.settings import Settings
from app.engine.model import Logits
from app.errors import ModelError
from app.neuron.catalogue import ModelConfig
from app.neuron.memory import DTYPE_BYTES, device_parameters


class NeuronModel:
    """See `app.engine.model.Model`. `module` is the library's own object."""

    max_sequences = 1
    kept_ids = None
    bit_identical = False  # one token and a window of k are different compiled programs: nothing promises equal sums

    def __init__(self, module: Any, config: ModelConfig, settings: Settings) -> None:
        self.module = module
        self.name = config.name
        self.vocab_size = config.vocab_size
        self.n_positions = settings.n_positions
        self.dtype = settings.dtype
        self.device = f"Neuron, {settings.tp_degree} core" + ("s" if settings.tp_degree > 1 else "")
        self.num_parameters = config.num_parameters
        self.windows = settings.windows
        self.in_use = False  # by its one sequence
        self._memory = device_parameters(config, settings.tp_degree) * DTYPE_BYTES[settings.dtype]

    def memory(self) -> int:
        return self._memory

    def new_sequence(self, windows: Ids[int] = ()) -> NeuronSequence:
        assert not self.in_use, "a Neuron model holds one sequence at a time"
        self.in_use = True
        return NeuronSequence(self)

    def prefill(self, token_ids: Ids[int]) -> Logits:
        """Cache `token_ids` (two or more) from position 0; returns the last one's row, float32 [1, V]."""
        rows = self._call(self.module.forward, token_ids, 0)
        return self._array(rows, (1, self.vocab_size))

    def step(self, token_id: int, position: int) -> Logits:
        """Cache one token at `position`; returns its row, float32 [1, V]."""
        rows = self._call(self.module.forward, [token_id], position)
        return self._array(rows, (1, self.vocab_size))

    def score(self, token_ids: Ids[int], position: int, window: int) -> Logits:
        """Cache up to `window` tokens (a compiled size) from `position`; returns their rows, float32 [n, V].

        The window is filled up with dummy tokens at the positions that follow: causal, so the rows before them do not
        see them, and stale, so they are overwritten before anything does.
        """
        padded = [*token_ids, *[0] * (window - len(token_ids))]
        rows = self._call(self.module.speculative_forward, padded, position, speculation_length=window)
        return self._array(rows, (window, self.vocab_size, 1))[: len(token_ids), :, 0]

    def window_for(self, count: int, position: int) -> int | None:
        """The compiled window to score the next of `count` tokens with; None where a plain step must do."""
        fitting = [window for window in self.windows if position + window <= self.n_positions]
        if count < 2 or not fitting:
            return None
        return next((window for window in fitting if window >= count), max(fitting))

    def _call(self, function: Callable[..., Any], token_ids: Ids[int], position: int, **options: int) -> Any:
        import torch

        count = len(token_ids)
        # What the library answers beyond its context is a bare StopIteration.
        assert 0 <= position <= self.n_positions - count, (position, count, self.n_positions)
        input_ids = torch.tensor([list(token_ids)], dtype=torch.int64)
        cache_ids = torch.arange(position, position + count, dtype=torch.int32)
        try:
            with torch.inference_mode():
                return function(input_ids, cache_ids=cache_ids, **options)
        except Exception as error:
            raise _pass_failed(self.name, error) from error

    def _array(self, rows: Any, shape: tuple[int, ...]) -> Logits:
        if tuple(rows.shape) != shape:
            raise ModelError(
                f"{self.name} answered with shape {tuple(rows.shape)} where {shape} was due; "
                "delete its compiled artefacts and load it again."
            )
        return np.array(rows.numpy(), dtype=np.float32, order="C")  # a copy: the library may reuse its buffer


class NeuronSequence:
    """See `app.engine.model.Sequence`."""

    def __init__(self, model: NeuronModel) -> None:
        self._model = model
        self.length = 0

    def forward(self, token_ids: Ids[int], num_logits: int) -> Logits:
        model, count = self._model, len(token_ids)
        assert model.in_use, "this sequence was closed"
        assert 1 <= num_logits <= count, (num_logits, count)
        assert self.length + count <= model.n_positions, (self.length, count, model.n_positions)
        if self.length == 0 and count > 1 and num_logits == 1:
            rows = [model.prefill(token_ids)]
        else:
            rows = list(self._append(token_ids))
        self.length += count
        return np.concatenate(rows)[-num_logits:]

    def _append(self, token_ids: Ids[int]) -> Iterator[Logits]:
        """Windows where one is compiled and fits, plain steps elsewhere."""
        done = 0
        while done < len(token_ids):
            position = self.length + done
            window = self._model.window_for(len(token_ids) - done, position)
            if window is None:
                yield self._model.step(token_ids[done], position)
                done += 1
            else:
                chunk = token_ids[done : done + window]
                yield self._model.score(chunk, position, window)
                done += len(chunk)

    def rollback(self, length: int) -> None:
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def close(self) -> None:
        self._model.in_use = False


def _pass_failed(name: str, error: Exception) -> ModelError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ModelError(
        f"A pass of {name} failed on the Neuron device ({said}); restart the playground, and see neuron-top and dmesg "
        "if it happens again."
    )
