"""Arithmetic on rows of probabilities: what the rules of `acceptance` are made of. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.engine.sampling import Floats, Probs
from app.engine.scored import DraftProbs, TargetProbs

TINY = np.finfo(np.float32).tiny


def check_shapes(draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs) -> None:
    g = len(draft_ids)
    assert (draft_probs.ndim, len(draft_probs)) == (2, g), (g, draft_probs.shape)
    assert (target_probs.ndim, len(target_probs)) == (2, g + 1), (g, target_probs.shape)


def overlap(target_row: Probs, draft_row: Probs) -> float:
    """Σ min(p, q) of two warped rows: the chance that rejection keeps a draft that is drawn from the second."""
    return total(np.minimum(*support(target_row, draft_row)))


def total(weights: Floats) -> float:
    return float(weights.sum(dtype=np.float64))


def fit(probs: Probs, size: int) -> Probs:
    """The row [V'] as [size]: ids it does not know have probability 0."""
    if probs.size >= size:
        return probs[:size]
    return np.concatenate([probs, np.zeros(size - probs.size, probs.dtype)])


def support(target_row: Probs, draft_row: Probs) -> tuple[Probs, Probs]:
    """Both rows, of equal size, without the ids neither can say: at most settings a handful remain."""
    draft_row = fit(draft_row, target_row.size)
    ids = np.flatnonzero((target_row > 0) | (draft_row > 0))
    if 2 * ids.size > target_row.size:
        return target_row, draft_row
    return target_row[ids], draft_row[ids]


def kept_share(p: Floats, q: Floats) -> Floats:
    """min(1, p / q) element by element; 0 where p = 0, whatever q is."""
    return p / np.maximum(np.maximum(p, q), TINY)


def emitted(kept: Floats, rest: Floats, row: Probs, passes: float) -> Floats:
    """The chance of every token [V]: kept as a draft, or else drawn from the rest."""
    over = total(rest)
    return kept + passes * (1 - total(kept)) * (rest / over if over > 0 else row)


def distance(spread: Floats, row: Floats) -> float:
    return total(np.abs(spread - row)) / 2
