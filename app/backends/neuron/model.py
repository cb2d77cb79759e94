"""A model on NeuronCores and its one KV cache, over the primitives that both libraries have.

A prefill from position 0, one token at one position, a window of a compiled size at one position. Rollback is
arithmetic: a stale slot is written again before it is attended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from typing import Any, Protocol

import numpy as np

from app.backends.neuron.settings import Settings
from app.engine.model import Logits
from app.errors import ModelError
from app.neuron.catalogue import ModelConfig
from app.neuron.memory import DTYPE_BYTES, device_parameters


class Programs(Protocol):
    """The compiled programs of one model. The rows they answer with are the library's own tensors, any shape that holds
    [rows, V]; `module` is its own object."""

    @property
    def module(self) -> Any: ...
    @property
    def prefill_limit(self) -> int:
        """Tokens one prefill can take."""
        ...

    def prefill(self, token_ids: Ids[int]) -> Any:
        """Cache the tokens from position 0; the last one's row."""
        ...

    def step(self, token_id: int, position: int) -> Any:
        """Cache a token at a position above 0; its row."""
        ...

    def score(self, token_ids: Ids[int], position: int) -> Any:
        """Cache exactly a compiled window of tokens from a position above 0; their rows."""
        ...


class NeuronModel:
    """See `app.engine.model.Model`."""

    max_sequences = 1
    kept_ids = None
    state_width = None
    reads_states = False
    bit_identical = False  # one token and a window of k are different compiled programs: nothing promises equal sums

    def __init__(
        self, programs: Programs, config: ModelConfig, settings: Settings, windows: tuple[int, ...] = ()
    ) -> None:
        """windows: the sizes of k that are offered; each is scored by the smallest compiled program that holds it."""
        self.programs = programs
        self.name = config.name
        self.vocab_size = config.vocab_size
        self.n_positions = settings.n_positions
        self.dtype = settings.dtype
        cores = f"{settings.tp_degree} core" + ("s" if settings.tp_degree > 1 else "")
        self.device = f"Neuron, {cores}, {settings.library}"
        self.num_parameters = config.num_parameters
        self.windows = windows
        self.in_use = False  # by its one sequence
        self._compiled = settings.compiled
        parameters = device_parameters(config, settings.tp_degree, settings.library)
        self._memory = parameters * DTYPE_BYTES[settings.dtype]

    @property
    def module(self) -> Any:
        """The library's own object."""
        return self.programs.module

    def memory(self) -> int:
        return self._memory

    def new_sequence(self, windows: Ids[int] = ()) -> NeuronSequence:
        assert not self.in_use, "a Neuron model holds one sequence at a time"
        self.in_use = True
        return NeuronSequence(self)

    def prefill(self, token_ids: Ids[int]) -> Logits:
        """Cache `token_ids`, up to the prefill program's size, from position 0; returns the last one's row, float32 [1,
        V]."""
        assert 1 <= len(token_ids) <= self.programs.prefill_limit, len(token_ids)
        return self._rows(1, lambda: self.programs.prefill(token_ids))

    def step(self, token_id: int, position: int) -> Logits:
        """Cache one token at `position`; returns its row, float32 [1, V]."""
        # What the libraries answer beyond their context is a bare StopIteration, or another position's row.
        assert 0 < position < self.n_positions, (position, self.n_positions)
        return self._rows(1, lambda: self.programs.step(token_id, position))

    def score(self, token_ids: Ids[int], position: int, window: int) -> Logits:
        """Cache up to `window` tokens (a compiled size) from `position`; returns their rows, float32 [n, V].

        The window is filled up with dummy tokens at the positions that follow: causal, so the rows before them do not
        see them, and stale, so they are overwritten before anything does.
        """
        assert 0 < position <= self.n_positions - window, (position, window, self.n_positions)
        padded = [*token_ids, *[0] * (window - len(token_ids))]
        return self._rows(window, lambda: self.programs.score(padded, position))[: len(token_ids)]

    def window_for(self, count: int, position: int) -> int | None:
        """The compiled window to score the next of `count` tokens with; None where a plain step must do."""
        fitting = [window for window in self._compiled if position + window <= self.n_positions]
        if count < 2 or not fitting:
            return None
        return next((window for window in fitting if window >= count), max(fitting))

    def _rows(self, count: int, run: Callable[[], Any]) -> Logits:
        """What a pass answers, float32 [count, V]: a copy, since the library may use its buffer again."""
        try:
            answer = run()
            shape = tuple(answer.shape)
            rows = np.array(answer.numpy(), dtype=np.float32, order="C")
        except Exception as error:
            raise _pass_failed(self.name, error) from error
        # Ones aside, which the libraries put in different places.
        if [size for size in shape if size != 1] != [size for size in (count, self.vocab_size) if size != 1]:
            raise ModelError(
                f"{self.name} answered with shape {shape} where {count} rows of {self.vocab_size} logits were due; "
                "delete its compiled artefacts and load it again."
            )
        return rows.reshape(count, self.vocab_size)


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
        rows = list(self._append(token_ids, num_logits))
        self.length += count
        return np.concatenate(rows)[-num_logits:]

    def _append(self, token_ids: Ids[int], num_logits: int) -> Iterator[Logits]:
        """A prefill from position 0, for what needs no row of its own; then windows where one is compiled and fits,
        plain steps elsewhere."""
        model, count, done = self._model, len(token_ids), 0
        if self.length == 0:
            done = min(count - num_logits + 1, model.programs.prefill_limit)
            yield model.prefill(token_ids[:done])
        while done < count:
            position = self.length + done
            window = model.window_for(count - done, position)
            if window is None:
                yield model.step(token_ids[done], position)
                done += 1
            else:
                chunk = token_ids[done : done + window]
                yield model.score(chunk, position, window)
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
