"""A draft that shares most, not all, of its target's ids: the others it never proposes.

Any q a token was drawn from is exact, so a draft may be cut to what both models mean the same by: ids beyond the
target's vocabulary, and ids that are one thing to the target and another to the draft (reserved specials), have logit
-inf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.model import KVCache, Logits, Model, States


class RestrictedModel:
    """`model`, which scores `vocab_size` ids at most and none of `never`; see `app.engine.model.Model`."""

    def __init__(self, model: Model, vocab_size: int, never: Iterable[int]) -> None:
        self._model = model
        self.name, self.dtype, self.device = model.name, model.dtype, model.device
        self.n_positions, self.num_parameters = model.n_positions, model.num_parameters
        self.windows, self.max_sequences, self.bit_identical = model.windows, model.max_sequences, model.bit_identical
        self.vocab_size = min(model.vocab_size, vocab_size)
        banned = np.array(sorted(each for each in never if each < self.vocab_size), np.int64)
        kept = model.kept_ids
        self.kept_ids = None if kept is None else kept[kept < vocab_size]
        self._rows = self.vocab_size if self.kept_ids is None else len(self.kept_ids)
        """Columns of logits that stay: kept ids ascend, so those of the target's vocabulary come first."""
        self._banned = banned if self.kept_ids is None else np.flatnonzero(np.isin(self.kept_ids, banned))

    def __getattr__(self, name: str) -> Any:
        """What else a backend's models have."""
        return getattr(self._model, name)

    def memory(self) -> int:
        return self._model.memory()

    def new_sequence(self, windows: Sequence[int] = ()) -> KVCache:
        return _RestrictedCache(self._model.new_sequence(windows), self._rows, self._banned)


class _RestrictedCache:
    """See `app.engine.model.KVCache`."""

    def __init__(self, cache: KVCache, rows: int, banned: NDArray[np.int64]) -> None:
        self._cache, self._rows, self._banned = cache, rows, banned

    @property
    def length(self) -> int:
        return self._cache.length

    def __getattr__(self, name: str) -> Any:
        """What else a cache has: `states` of one that gives them."""
        return getattr(self._cache, name)

    def forward(self, token_ids: Sequence[int], num_logits: int, *before: States) -> Logits:
        logits = self._cache.forward(token_ids, num_logits, *before)[:, : self._rows].copy()
        logits[:, self._banned] = -np.inf
        return logits

    def rollback(self, length: int) -> None:
        self._cache.rollback(length)

    def close(self) -> None:
        self._cache.close()


def restricted(draft: Model, vocab_size: int, never: frozenset[int]) -> Model:
    """`draft`, cut to the ids a target of that many shares with it; itself where it shares all, or can do so itself."""
    if not never and draft.vocab_size <= vocab_size:
        return draft
    own = getattr(draft, "restrict", None)
    if own is None:
        return RestrictedModel(draft, vocab_size, never)
    own(vocab_size, never)
    return draft
