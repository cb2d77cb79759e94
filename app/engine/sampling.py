"""Logits to probabilities: the warp. Numpy only.

A round of k = 5 warps nine rows of 49,152 logits in the time the page calls host, right after a pass that left nothing
of numpy in the processor's caches. So nothing here sorts a row, whole rows are swept in float32 and seldom, and what is
decided at a boundary is added up in float64 over the few ids that can matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from app.record.trace import Sampling

Floats = NDArray[np.floating]
Probs = NDArray[np.float32]
Ids = NDArray[np.intp]

NUCLEUS_GUESS = 2.0**-13  # of the largest weight: those above hold most nuclei, which saves the histogram of the row


class NonFiniteLogits(ValueError):  # noqa: N818 - names what was found; the caller makes the person's error of it
    """A row of logits holds NaN or +inf, or nothing but -inf. `row` is its index in the array given."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} of the logits has no finite maximum")
        self.row = row


# --- the warp ---


def warp(logits: NDArray[np.float32], sampling: Sampling) -> Probs:
    """The distributions tokens are drawn from: temperature, then top_k, then top_p, then softmax.

    logits: float32 [n, V]; returns float32 [n, V]. Temperature 0 gives one-hot rows. top_k keeps exactly k tokens
    and top_p the fewest most likely tokens whose probability (after top_k) reaches it; equals are kept lowest id
    first, as argmax does, so top_k = 1 is temperature 0. A row's result does not depend on the other rows.
    Raises NonFiniteLogits.
    """
    return WarpedRows(logits, sampling).all()


class WarpedRows:
    """The rows [n, V] that `warp` gives, each computed when first asked for: those behind the first refused draft, in
    most rounds more than half of them, never are."""

    ndim = 2

    def __init__(
        self,
        logits: NDArray[np.float32],
        sampling: Sampling,
        unusable: Callable[[int], Exception] = NonFiniteLogits,
    ) -> None:
        """logits float32 [n, V], not changed while this is in use. unusable: what to raise for a row that cannot be."""
        assert logits.ndim == 2, logits.shape
        self.shape: tuple[int, int] = (logits.shape[0], logits.shape[1])
        self._logits, self._sampling, self._unusable = logits, sampling, unusable
        self.greedy = sampling.temperature == 0
        self._rows: list[Probs | None] = [None] * len(logits)
        self._best: list[int | None] = [None] * len(logits)

    def best(self, row: int) -> int:
        """The likeliest id of a row. Raises `unusable(row)`."""
        best = self._best[row]
        if best is None:
            scores = self._logits[row]
            best = int(scores.argmax())  # the first NaN where there is one, so one look finds an unusable row
            if not math.isfinite(scores[best]):
                raise self._unusable(row)
            self._best[row] = best
        return best

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Probs:
        """Row number `row`, from 0. Raises `unusable(row)`."""
        probs = self._rows[row]
        if probs is None:
            best = self.best(row)
            probs = self._rows[row] = np.zeros(self.shape[1], np.float32)
            _warp_row(self._logits[row], best, self._sampling, probs)
        return probs

    def __iter__(self) -> Iterator[Probs]:
        return (self[row] for row in range(len(self)))

    def all(self) -> Probs:
        """Every row, float32 [n, V]. Raises `unusable` of one."""
        return np.stack(list(self)) if len(self) else np.zeros(self.shape, np.float32)


def _warp_row(scores: NDArray[np.float32], best: int, sampling: Sampling, out: Probs) -> None:
    """Write one row's distribution into `out` (zeros). best: the likeliest id."""
    if sampling.temperature == 0:
        out[best] = 1
    elif 0 < sampling.top_k < scores.size:
        ids = top_ids(scores, sampling.top_k)
        weights = _weights(scores[ids], scores[best], sampling.temperature)
        if sampling.top_p < 1:
            weights = weights[: _reaching(weights, sampling.top_p * _sum(weights))]
        out[ids[: weights.size]] = _normalised(weights)
    else:
        weights = _weights(scores, scores[best], sampling.temperature)
        if sampling.top_p < 1:
            _keep_nucleus(weights, sampling.top_p, out)
        else:
            np.divide(weights, weights.sum(), out=out)


def _weights(scores: NDArray[np.float32], best: np.float32, temperature: float) -> Probs:
    """exp((scores - best) / temperature), where the division may reach -inf but never 0 / 0."""
    with np.errstate(over="ignore"):
        weights = scores - best
        if temperature != 1:
            weights /= np.float32(max(temperature, 1e-30))
    # float32: numpy's exp is vectorised for it; float64's is not on every processor
    np.exp(weights, out=weights)
    return weights


def _keep_nucleus(weights: Probs, top_p: float, out: Probs) -> None:
    """Write the normalised nucleus of one whole row into `out` (zeros).

    Only values are sorted, which is vectorised: the least one in the nucleus tells which ids are. Most nuclei are
    among the tokens near the best one; of a flat row a histogram tells how far down to look.
    """
    mass = top_p * float(weights.sum())
    ids = np.flatnonzero(weights >= NUCLEUS_GUESS)
    some, falling, held = _falling(weights, ids)
    if held[-1] < mass:
        ids = _holding(weights, mass)
        some, falling, held = _falling(weights, ids)
    count = min(int(np.searchsorted(held, mass)) + 1, ids.size)
    kept = some >= falling[count - 1]
    if beyond := int(np.count_nonzero(kept)) - count:
        equals = np.flatnonzero(some == falling[count - 1])
        kept[equals[equals.size - beyond :]] = False
    out[ids[kept]] = some[kept] / np.float32(held[count - 1])


def _falling(weights: Probs, ids: Ids) -> tuple[Probs, Probs, NDArray[np.float64]]:
    """The weights at ids; the same largest first; and how much they hold up to each."""
    some = weights[ids]
    falling = np.sort(some)[::-1]
    return some, falling, np.cumsum(falling, dtype=np.float64)


def _holding(weights: Probs, mass: float) -> Ids:
    """Ids, ascending, of every weight [V] (0 to 1) not below some bound, which together hold the mass.

    The bound is an edge of a histogram whose bins are the leading bits of a float: its exponent and the begin of its
    mantissa, in which non-negative floats are ordered as they are by value.
    """
    bits = 19  # the 4 bits of mantissa that are left make bins 6% wide
    bins = weights.view(np.uint32) >> np.uint32(bits)
    held = np.cumsum(np.bincount(bins, weights)[::-1])  # by the bins from the top
    # one bin more than it takes: its sums are added up in another order than the sorted weights'
    last = max(held.size - 2 - int(np.searchsorted(held, mass)), 0)
    return np.flatnonzero(bins >= last)


def _reaching(falling: Probs, mass: float) -> int:
    """How many of the weights, largest first, add up to the mass; one more than there are where all do not."""
    return int(np.searchsorted(np.cumsum(falling.astype(np.float64)), mass)) + 1


def _normalised(weights: Probs) -> Probs:
    return weights / np.float32(_sum(weights))


def _sum(weights: Floats) -> float:
    return float(weights.sum(dtype=np.float64))


# --- the largest of a row, without sorting it ---


def top_ids(values: Floats, n: int) -> Ids:
    """Ids of the n largest values [V], largest first, equals lowest id first. Fewer where V < n."""
    ids = _at_least(values, n)
    return ids[np.argsort(-values[ids], kind="stable")[:n]]


def _at_least(values: Floats, n: int) -> Ids:
    """Ids, ascending, of every value not below some bound that at least n values reach.

    The n-th largest of block maxima is such a bound: n blocks hold a value at least as large. The blocks are the
    columns of the row folded into a matrix, so that their maxima are taken in vectorised sweeps.
    """
    depth = 64
    while depth > 4 and values.size // depth < 4 * n:
        depth //= 2
    width = values.size // depth
    if width < 2 * n:
        return np.arange(values.size)
    maxima = values[: depth * width].reshape(depth, width).max(axis=0)
    bound = np.partition(maxima, width - n)[width - n]
    return np.flatnonzero(values >= bound)


def confidence(logits: NDArray[np.float32]) -> float:
    """The probability of a model's likeliest token in its plain softmax. logits: one row [V], its maximum finite."""
    return 1 / float(np.exp(logits - logits.max()).sum())
