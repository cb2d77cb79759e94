"""A model's distribution before the warp, for whoever looks: probabilities, entropy, divergence. Numpy only.

No arm's time is spent here, but the page waits for it: each row is swept a few times in float32, and never sorted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from app.engine.sampling import Ids

FLOOR = np.float32(-80.0)
"""Of a log-weight under the row's largest: weights below it count as this one, so that no figure is infinite and no
weight denormal, which a processor is slow at."""


class PlainSoftmax:
    """softmax of one row of logits [n] that has a finite maximum.

    kept_ids [n]: the ids the logits are of (None: of 0 to n - 1); all others have probability 0.
    """

    def __init__(self, logits: NDArray[np.float32], kept_ids: Ids | None = None) -> None:
        self.kept_ids = kept_ids
        self._scores: NDArray[np.float32] = np.maximum(logits - logits.max(), FLOOR)
        self._weights = np.exp(self._scores)
        self._total = float(self._weights.sum())  # in float32, by pairs: figures to look at

    def prob(self, token: int) -> float:
        """Of one id; 0 where the model does not know it."""
        place = token
        if self.kept_ids is not None:
            place = int(np.searchsorted(self.kept_ids, token))
            if place == self.kept_ids.size or self.kept_ids[place] != token:
                return 0.0
        return float(self._weights[place]) / self._total if place < self._weights.size else 0.0

    @property
    def entropy(self) -> float:
        """In nats, 0 to log n."""
        return max(0.0, math.log(self._total) - float(self._weights @ self._scores) / self._total)

    def divergence(self, other: PlainSoftmax) -> float:
        """KL divergence of this distribution from the other, Σ self log(self / other), in nats; 0 where they are the
        same.

        It weighs by the distribution the drafts are drawn from, so ids that only the other knows cost nothing; where
        the other has next to nothing (`FLOOR`), the sum stays finite.
        """
        theirs = other._at(self.kept_ids, self._weights.size)
        mean = float(self._weights @ (self._scores - theirs)) / self._total
        return max(0.0, mean + math.log(other._total / self._total))

    def _at(self, ids: Ids | None, size: int) -> NDArray[np.float32]:
        """Log-weights of the ids, or of 0 to size - 1, under the row's largest."""
        assert self.kept_ids is None, "the divergence is from a model that scores every id"
        if ids is None and size == self._scores.size:
            return self._scores
        wanted = np.arange(size) if ids is None else ids
        known = wanted < self._scores.size
        scores: NDArray[np.float32] = np.where(known, self._scores[np.where(known, wanted, 0)], FLOOR)
        return scores
