"""Seeded draws: coins, noise over a vocabulary, and tokens picked by them. Numpy only.

Every draw is a function of (seed, position, purpose) and of nothing else, so a run can be replayed and both arms share
what belongs to a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from app.engine.sampling import Floats, Ids, Probs

BLOCK = 256  # of the two-level cumulative sum
WORD, GOLDEN = 2**64 - 1, 0x9E3779B97F4A7C15  # of SplitMix64


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
    other by SplitMix64 (Steele et al. 2014), in plain integers: a generator object of numpy's takes five times as long
    to set up, seven times a round.
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


def gumbel_max(probs: Floats, noise: RoundNoise, offset: int) -> int:
    """The Gumbel-max draw: argmax of log p + Gumbel noise, written as the exponential race it equals, argmax p / E.

    probs [V]; distributed as probs, and equal for equal noise wherever two distributions' winners agree.
    """
    ids = np.flatnonzero(probs > 0)
    return int(ids[np.argmax(probs[ids] / noise.exponential(offset, ids))])


def gumbel_sum(probs: Floats, noise: RoundNoise, offset: int, token: int) -> float | None:
    """log p + Gumbel noise of one id: `gumbel_max` is the id of the largest. probs [V]; None where p is 0."""
    if token >= probs.size or probs[token] <= 0:
        return None
    return float(np.log(probs[token]) - np.log(noise.exponential(offset, np.array([token]))[0]))
