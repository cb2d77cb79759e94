"""Drafters: who proposes the tokens the target then judges."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app import model
from app.errors import ModelError
from app.sampling import NonFiniteLogits, RoundNoise, warp
from app.trace import Sampling

Propose = Callable[[NDArray[np.float32], RoundNoise, int], int]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted tokens [g], the warped distributions they were picked from and the logits behind those, float32 [g, V],
    and the seconds of the drafter's own passes."""

    ids: tuple[int, ...]
    probs: NDArray[np.float32]
    logits: NDArray[np.float32]
    seconds: float


class Drafter(Protocol):
    """Proposes tokens that may follow a context."""

    def prefill(self, context: Ids[int]) -> float:
        """Read the prompt; returns the seconds it took."""
        ...

    def propose(self, context: Ids[int], count: int, pick: Propose, noise: RoundNoise) -> Proposal:
        """At most `count` tokens to follow `context`, each picked by `pick(probs, noise, offset)`.

        Fewer where going on is pointless: after a stop token nothing follows.
        """
        ...

    def close(self) -> None: ...


class ModelDrafter:
    """A draft model: one pass a token, each token picked from the warped q that the acceptor divides by."""

    def __init__(
        self,
        sequence: model.Sequence,
        *,
        name: str,
        vocab_size: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sequence, self._name, self._vocab_size = sequence, name, vocab_size
        self._sampling, self._stop_ids, self._clock = sampling, stop_ids, clock

    def prefill(self, context: Ids[int]) -> float:
        begin = self._clock()
        self._sequence.forward(context, 1)
        return self._clock() - begin

    def propose(self, context: Ids[int], count: int, pick: Propose, noise: RoundNoise) -> Proposal:
        sequence, clock = self._sequence, self._clock
        sequence.rollback(min(sequence.length, len(context) - 1))
        feed = list(context[sequence.length :])
        ids: list[int] = []
        probs = np.empty((count, self._vocab_size), np.float32)
        kept_logits = np.empty_like(probs)
        seconds = 0.0
        for offset in range(count):
            begin = clock()
            logits = sequence.forward(feed, 1)
            seconds += clock() - begin
            try:
                row = warp(logits, self._sampling)[0]
            except NonFiniteLogits:
                raise not_finite(self._name, len(context) + offset) from None
            token = pick(row, noise, offset)
            probs[offset], kept_logits[offset] = row, logits[0]
            ids.append(token)
            if token in self._stop_ids:
                break
            feed = [token]
        return Proposal(tuple(ids), probs[: len(ids)], kept_logits[: len(ids)], seconds)

    def close(self) -> None:
        self._sequence.close()


def not_finite(name: str, position: int) -> ModelError:
    """The error for logits that are NaN, infinite, or all -inf."""
    return ModelError(
        f"{name} gave logits that are not finite at position {position}; "
        "its weights are damaged or its precision is too low, so load it again with --dtype f32."
    )
