"""Logits to probabilities (the warp), seeded draws from them, and the most likely alternatives. Numpy only.

A round of k = 5 warps nine rows of 49,152 logits in the time the page calls host, right after a pass that left nothing
of numpy in the processor's caches. So nothing here sorts a row, whole rows are swept in float32 and seldom, and what is
decided at a boundary is added up in float64 over the few ids that can matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from app.errors import RequestError
from app.record.trace import Alternative, Sampling

Floats = NDArray[np.floating]
Probs = NDArray[np.float32]
Ids = NDArray[np.intp]

MAX_TEMPERATURE = 10.0
MAX_SEED = 2**63 - 1
NUCLEUS_GUESS = 2.0**-13  # of the largest weight: those above hold most nuclei, which saves the histogram of the row
BLOCK = 256  # of the two-level cumulative sum
WORD, GOLDEN = 2**64 - 1, 0x9E3779B97F4A7C15  # of SplitMix64


class NonFiniteLogits(ValueError):  # noqa: N818 - names what was found; the caller makes the person's error of it
    """A row of logits holds NaN or +inf, or nothing but -inf. `row` is its index in the array given."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} of the logits has no finite maximum")
        self.row = row


def validate(sampling: Sampling) -> None:
    """Raise RequestError unless the warp and the seed can work."""
    if not 0 <= sampling.temperature <= MAX_TEMPERATURE:  # False for NaN too
        raise RequestError(
            f"The temperature is {sampling.temperature:g}; choose a number from 0 (always the most likely token) "
            f"to {MAX_TEMPERATURE:g}."
        )
    if not 0 < sampling.top_p <= 1:
        raise RequestError(f"top_p is {sampling.top_p:g}; choose a number above 0 and up to 1 (1 switches it off).")
    if sampling.top_k < 0:
        raise RequestError(f"top_k is {sampling.top_k}; choose 0 (off) or a positive whole number.")
    if not 0 <= sampling.seed <= MAX_SEED:
        raise RequestError(f"The seed is {sampling.seed}; choose a whole number from 0 to {MAX_SEED}.")


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
    """The rows [n, V] that `warp` gives, each computed when first asked for: those behind the first refused draft, in most
    rounds more than half of them, never are."""

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
        self._probs = np.empty(logits.shape, np.float32)
        self._done = [False] * len(logits)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Probs:
        """Row number `row`, from 0. Raises `unusable(row)`."""
        probs: Probs = self._probs[row]
        if not self._done[row]:
            scores = self._logits[row]
            best = int(scores.argmax())  # the first NaN where there is one, so one look finds an unusable row
            if not math.isfinite(scores[best]):
                raise self._unusable(row)
            probs.fill(0)
            _warp_row(scores, best, self._sampling, probs)
            self._done[row] = True
        return probs

    def __iter__(self) -> Iterator[Probs]:
        return (self[row] for row in range(len(self)))

    def all(self) -> Probs:
        """Every row, float32 [n, V]. Raises `unusable` of one."""
        for _ in self:
            pass
        return self._probs


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


# --- alternatives, for the page ---


def top_alternatives(logits: NDArray[np.float32], probs: Floats, n: int) -> tuple[Alternative, ...]:
    """The n tokens a model holds most likely in its plain softmax, most likely first.

    logits, probs: one row [V] each, the latter warped. Tokens of probability 0 (logit -inf) are left out.
    """
    ids = top_ids(logits, n)
    best = logits[ids[0]]
    total = float(np.exp(logits - best).sum())  # in float32, by pairs: figures to look at
    return tuple(
        Alternative(int(token), math.exp(float(logits[token] - best)) / total, float(probs[token]))
        for token in ids
        if logits[token] != -np.inf
    )


def alternatives(
    logits: NDArray[np.float32], probs: Floats, n: int, kept_ids: Ids | None = None
) -> tuple[tuple[Alternative, ...], ...]:
    """`top_alternatives` of every row of logits and probs [rows, V]; kept_ids: the ids the logits are of, if not all."""
    if kept_ids is None:
        return tuple(top_alternatives(scores, row, n) for scores, row in zip(logits, probs, strict=True))
    found = alternatives(logits, probs[:, kept_ids], n)
    return tuple(tuple(replace(each, id=int(kept_ids[each.id])) for each in row) for row in found)


def residual_alternatives(residual: Floats, target_probs: Floats, n: int) -> tuple[Alternative, ...]:
    """The n most likely corrections: `warped_prob` is the residual's [V], `model_prob` the target's warped p [V]."""
    return tuple(
        Alternative(int(token), float(target_probs[token]), float(residual[token]))
        for token in top_ids(residual, n)
        if residual[token] > 0
    )


# --- draws ---


def draw(weights: Floats, u: float) -> int:
    """The id at u (in [0, 1)) of the cumulative distribution of weights [V] from 0 to 1, which need not sum to 1.

    Never an id of weight 0. Zeros appended to the weights do not change the draw. A weight of 1 leaves the others less
    than its rounding, so it is the draw.
    """
    best = int(weights.argmax())
    if weights[best] >= 1:
        return best
    # Sums of blocks first, then within one: the cumulative sum of a whole row takes as long as several exps of it.
    whole = weights.size // BLOCK * BLOCK
    sums = weights[:whole].reshape(-1, BLOCK).sum(axis=1).astype(np.float64)
    if whole < weights.size:
        sums = np.append(sums, weights[whole:].sum())
    reached = np.cumsum(sums)
    assert reached[-1] > 0, "nothing to draw from"
    point = u * float(reached[-1])
    block = int(np.searchsorted(reached, point, side="right"))
    if block == sums.size:  # a u just below 1 was rounded up to the total
        block = int(np.flatnonzero(sums)[-1])
    part = weights[block * BLOCK : (block + 1) * BLOCK].astype(np.float64)
    before = float(reached[block - 1]) if block else 0.0
    place = int(np.searchsorted(before + np.cumsum(part), point, side="right"))
    if place == part.size:  # the block's own sum was rounded below the point
        place = int(np.flatnonzero(part)[-1])
    return block * BLOCK + place


class Purpose(IntEnum):
    """What a draw is for. Draws of different purposes are independent."""

    DRAFT = 1  # the draft picks its token
    ACCEPT = 2  # the coin a drafted token is judged by
    FINAL = 3  # the target picks its own token
    GUMBEL = 4  # noise over the vocabulary, shared by whoever picks at a position


@dataclass(frozen=True, slots=True)
class Noise:
    """Draws that are a function of (seed, position, purpose) and of nothing else: replayable, no hidden state.

    position: the index of the token in the context, prompt included. The words of the key are mixed in one after the
    other by SplitMix64 (Steele et al. 2014), in plain integers: a generator object of numpy's takes five times as long to
    set up, seven times a round.
    """

    seed: int

    def uniform(self, position: int, purpose: Purpose) -> float:
        """In [0, 1), a multiple of 2^-53."""
        return _unit(self._raw(purpose, position))

    def exponential(self, position: int, ids: Ids) -> Probs:
        """Exponential noise (mean 1) of the token ids at this position, float32 [len(ids)].

        An id's noise does not depend on which others are asked for: SplitMix64, the output a function of a
        counter, with a start drawn for the position and the id as the counter.
        """
        bits = ids.astype(np.uint64)
        bits *= np.uint64(GOLDEN)
        bits += np.uint64(self._raw(Purpose.GUMBEL, position))
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        bits ^= bits >> np.uint64(27)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        # -log(1 - v), where v keeps all its digits near 0: those are the winners of a race
        v = bits.astype(np.float32)
        v += np.float32(0.5)
        v *= np.float32(2.0**-64)
        np.minimum(v, np.float32(1 - 2.0**-24), out=v)
        rest = 1 - v
        lost = rest - 1  # -v as it was rounded
        noise = np.log(rest, out=rest)
        noise *= v
        return np.divide(noise, lost, out=v, where=lost != 0)

    def gumbel(self, position: int, size: int) -> Probs:
        """Standard Gumbel noise of ids 0 to size - 1 at this position, float32 [size]: -log of `exponential`.

        A shorter vector is the beginning of a longer one, so padded vocabularies share their noise.
        """
        return -np.log(self.exponential(position, np.arange(size)))

    def at(self, position: int) -> RoundNoise:
        """The draws of a round whose first drafted token stands at `position`."""
        return RoundNoise(self, position)

    def _raw(self, purpose: Purpose, position: int, lane: int = 0) -> int:
        state = self.seed
        for word in (int(purpose), position, lane):
            state = _mixed(state + GOLDEN * (word + 1))
        return state


def _mixed(state: int) -> int:
    """SplitMix64's output for a counter, an integer below 2^64."""
    state &= WORD
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & WORD
    state = (state ^ state >> 27) * 0x94D049BB133111EB & WORD
    return state ^ state >> 31


@dataclass(frozen=True, slots=True)
class RoundNoise:
    """The draws of one round; offset counts its drafted tokens from 0.

    FINAL and Gumbel draws belong to the absolute position, whichever round comes to it: the arms share them.
    DRAFT and ACCEPT draws belong to the round as well. A position whose draft was discarded is drafted again later,
    and an acceptor that looks at the whole window (`block`) has by then learnt from its old draws; used again,
    they would not be uniform any more, and the result not lossless. No two rounds start at the same position.
    """

    noise: Noise
    position: int

    def uniform(self, offset: int, purpose: Purpose) -> float:
        """In [0, 1)."""
        if purpose in (Purpose.DRAFT, Purpose.ACCEPT):
            return _unit(self.noise._raw(purpose, self.position, offset + 1))
        return self.noise.uniform(self.position + offset, purpose)

    def exponential(self, offset: int, ids: Ids) -> Probs:
        """See `Noise.exponential`."""
        return self.noise.exponential(self.position + offset, ids)

    def gumbel(self, offset: int, size: int) -> Probs:
        """See `Noise.gumbel`."""
        return self.noise.gumbel(self.position + offset, size)


def _unit(bits: int) -> float:
    return (bits >> 11) * 2.0**-53


def race(probs: Floats, noise: RoundNoise, offset: int) -> int:
    """The Gumbel-max draw: argmax of log p + Gumbel noise, written as the exponential race it equals, argmax p / E.

    probs [V]; distributed as probs, and equal for equal noise wherever two distributions' winners agree.
    """
    ids = np.flatnonzero(probs > 0)
    return int(ids[np.argmax(probs[ids] / noise.exponential(offset, ids))])
