"""Acceptors: which drafted tokens are kept, and what the target says instead.

An acceptor is lossless if the emitted tokens are distributed exactly as the target alone would emit them. Sources:
`rejection` Chen et al. 2023 (arXiv 2302.01318) and Leviathan et al. 2023 (2211.17192), whose leniency is `lenient`;
`block` Sun et al. 2024 (2403.10444); `coupled` Daliri et al. 2024 (2408.07978); `typical` Cai et al. 2024 (2401.10774);
`upstream` is what the stock loop of transformers-neuronx does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from app.engine.noise import Purpose, RoundNoise, draw, gumbel_max
from app.engine.sampling import Floats, Probs, WarpedRows
from app.errors import RequestError
from app.record.limits import LENIENCY, TYPICAL_DELTA, TYPICAL_EPSILON

TINY = np.finfo(np.float32).tiny

TargetProbs = Probs | WarpedRows


@dataclass(frozen=True, slots=True)
class Judgement:
    """The coin u (uniform in [0, 1)) of a judged draft and what it was held against; None where no coin was flipped.

    Kept where u < threshold, except for `block`, where only the last such draft counts.
    """

    u: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round emits: the first `num_accepted` drafted tokens, then `final_id`.

    judgements: one per drafted token that was judged, in order. residual [V]: the distribution the corrected token
    was drawn from where that is not the target's own row; None otherwise.
    """

    num_accepted: int
    final_id: int
    judgements: tuple[Judgement, ...] = ()
    residual: Probs | None = field(default=None, compare=False)


class Acceptor(ABC):
    """A rule for judging drafted tokens.

    name, description: for the page, one line. lossless: see the module. same_text: for a seed the speculative arm
    prints exactly the target-only arm's text at any temperature, given window-independent logits; at temperature 0
    every lossless acceptor does.
    """

    name: str
    description: str
    lossless: bool
    same_text: bool = False

    def propose(self, draft_probs: Probs, noise: RoundNoise, offset: int) -> int:
        """The draft's token at `offset` in the window, from its warped distribution [V]."""
        return draw(draft_probs, noise.uniform(offset, Purpose.DRAFT))

    @abstractmethod
    def __call__(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        """Judge g drafted tokens; g = 0 is the target alone.

        draft_ids [g]; draft_probs float32 [g, V_draft], the distributions the ids were drawn from; target_probs
        float32 [g + 1, V], or rows made when indexed. Ids beyond the shorter vocabulary have probability 0 there.
        """

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float | None:
        """Total variation between the emitted token's distribution and the target's, the worst of the g positions.

        Computed from the rule itself, not sampled: the chance of each token x to be emitted at a position, given
        that the drafts before it were kept. Hand in the positions that were judged. None where it is not known.
        """
        return None


class TokenWise(Acceptor):
    """Acceptors that judge the drafts one by one from the left and stop at the first they refuse."""

    coin: ClassVar[bool] = True

    def proposal(self, draft_probs: Probs) -> Probs:
        """The distribution `propose` draws from, [V]."""
        return draft_probs

    @abstractmethod
    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        """The probability of keeping tokens whose target and draft probabilities are p and q [n].

        target_probs [V]: the target's whole row.
        """

    def residual(self, target_probs: Probs, draft_probs: Probs) -> Probs:
        """What a corrected token is drawn from, not normalised; both [V]."""
        rest: Probs = np.maximum(target_probs - draft_probs, 0)
        return rest

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        check_shapes(draft_ids, draft_probs, target_probs)
        judgements: list[Judgement] = []
        for offset, token in enumerate(draft_ids):
            row = target_probs[offset]
            threshold = float(self.keep(row, _at(row, token), _at(draft_probs[offset], token))[0])
            u = noise.uniform(offset, Purpose.ACCEPT)
            judgements.append(Judgement(u, threshold) if self.coin else Judgement())
            if u >= threshold:
                rest = self.residual(row, _fit(draft_probs[offset], row.size))
                return _corrected(offset, rest, row, tuple(judgements), noise)
        return from_target(len(draft_ids), target_probs, tuple(judgements), noise)

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float:
        check_shapes(draft_ids, draft_probs, target_probs)
        worst = 0.0
        for target_row, draft_row in zip(target_probs, draft_probs, strict=False):  # the last target row judges nothing
            row, q = _support(target_row, draft_row)
            kept = self.proposal(q) * self.keep(row, row, q)
            worst = max(worst, _distance(_emitted(kept, self.residual(row, q), row, 1.0), row))
        return worst


class Rejection(TokenWise):
    name = "rejection"
    description = (
        "Keep a draft with probability min(1, p/q), else draw from the normalised rest of p over q (Chen et al.)."
    )
    lossless = True

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        return _ratio(p, q)


class Lenient(Rejection):
    name = "lenient"
    description = "Rejection with q halved before the test: keeps more, says unlikely tokens up to twice as often."
    lossless = False

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        return _ratio(p, LENIENCY * q)


class Typical(TokenWise):
    name = "typical"
    description = f"Keep any draft that is plausible for the target's entropy, with no coin (Medusa, ε = {TYPICAL_EPSILON}, δ = {TYPICAL_DELTA})."
    lossless = False
    coin = False

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        some = target_probs[target_probs > 0]
        entropy = -float(np.sum(some * np.log(some), dtype=np.float64))
        plausible: Floats = (p > min(TYPICAL_EPSILON, TYPICAL_DELTA * np.exp(-entropy))).astype(np.float32)
        return plausible

    def residual(self, target_probs: Probs, draft_probs: Probs) -> Probs:
        return target_probs


class Upstream(Rejection):
    name = "upstream"
    description = "The stock loop of transformers-neuronx: the draft takes its argmax, yet the test divides by its q."
    lossless = False

    def propose(self, draft_probs: Probs, noise: RoundNoise, offset: int) -> int:
        return int(draft_probs.argmax())

    def proposal(self, draft_probs: Probs) -> Probs:
        greedy = np.zeros_like(draft_probs)
        greedy[draft_probs.argmax()] = 1
        return greedy


class TargetLed(Acceptor):
    """Acceptors where the target picks every token itself, with the noise of its position, and a draft is kept while
    it is the same token. So the text does not depend on the draft, on k, or on there being a draft at all."""

    lossless = True
    same_text = True

    @abstractmethod
    def pick(self, probs: Probs, noise: RoundNoise, offset: int) -> int:
        """The target's own token at `offset`, from its warped row [V]."""

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        check_shapes(draft_ids, draft_probs, target_probs)
        judgements: tuple[Judgement, ...] = ()
        for offset, token in enumerate(draft_ids):
            picked = self.pick(target_probs[offset], noise, offset)
            judgements += (Judgement(),)
            if picked != token:
                return Verdict(offset, picked, judgements)
        g = len(draft_ids)
        return Verdict(g, self.pick(target_probs[g], noise, g), judgements)

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float:
        """Every token is drawn from the target's own row, which its draw normalises: what is left is rounding."""
        check_shapes(draft_ids, draft_probs, target_probs)
        return max((_distance(row / _sum(row), row) for row in target_probs[: len(draft_ids)]), default=0.0)


class Exact(TargetLed):
    name = "exact"
    description = (
        "The target draws its own token and a draft is kept while it is the same: the text of the target alone."
    )

    def pick(self, probs: Probs, noise: RoundNoise, offset: int) -> int:
        return draw(probs, noise.uniform(offset, Purpose.FINAL))


class Coupled(TargetLed):
    name = "coupled"
    description = (
        "Exact, but both models pick by Gumbel-max with the same noise, so they agree more often (Daliri et al.)."
    )

    def pick(self, probs: Probs, noise: RoundNoise, offset: int) -> int:
        return gumbel_max(probs, noise, offset)

    def propose(self, draft_probs: Probs, noise: RoundNoise, offset: int) -> int:
        return gumbel_max(draft_probs, noise, offset)


class Block(Acceptor):
    """Block verification: the drafts are judged jointly, from the probability of the whole prefix.

    With p_0 = 1 and p_i = min(1, p_(i-1) p(x_i) / q(x_i)), the prefix of length i < g passes its coin with probability
    h_i = s_i / (s_i + 1 - p_i), s_i = Σ max(p_i p - q, 0) over the row after it, and the whole window with p_g. The
    longest prefix that passes is kept; the residual after it is norm(max(p_i p - q, 0)).
    """

    name = "block"
    description = "Judge the window as a whole; keeps at least as many drafts as rejection on average (Sun et al.)."
    lossless = True

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        check_shapes(draft_ids, draft_probs, target_probs)
        prefixes = self._prefixes(draft_ids, draft_probs, target_probs)
        judgements = tuple(
            Judgement(noise.uniform(i, Purpose.ACCEPT), prefix.passes) for i, prefix in enumerate(prefixes[1:])
        )
        kept = max((i for i, coin in enumerate(judgements, start=1) if coin.u < coin.threshold), default=0)  # type: ignore[operator]
        if kept == len(draft_ids):
            return from_target(kept, target_probs, judgements, noise)
        return _corrected(kept, prefixes[kept].rest, target_probs[kept], judgements, noise)

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float:
        """As for the others: at each position, given that the drafts before it were kept.

        The guarantee is on the joint distribution, and rests on P(at least i kept | the first i drafts) = p_i. So,
        given the drafts up to i, token x follows with probability min(p_i p(x), q(x)) as a draft, and with h_i (1 -
        Σ min(p_i p, q)) times the residual as a correction; over p_i this is p(x). The sum is taken from the h_i
        that `__call__` flips its coins against, so a wrong one shows.
        """
        check_shapes(draft_ids, draft_probs, target_probs)
        worst = 0.0
        prefixes = self._prefixes(draft_ids, draft_probs, target_probs)
        for prefix, target_row, draft_row in zip(prefixes, target_probs, draft_probs, strict=False):
            if prefix.probability > 0:
                row, q = _support(target_row, draft_row)
                scaled = np.float32(prefix.probability) * row
                kept = q * _ratio(scaled, q)
                emitted = _emitted(kept, np.maximum(scaled - q, 0), row, prefix.passes) / prefix.probability
                worst = max(worst, _distance(emitted, row))
        return worst

    def _prefixes(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs) -> list[_Prefix]:
        """The prefixes of length 0 to g; the empty one always passes."""
        g = len(draft_ids)
        probability = 1.0
        prefixes = []
        for i, row in enumerate(target_probs):
            if i == g:
                prefixes.append(_Prefix(probability, probability, row))
                break
            q = _fit(draft_probs[i], row.size)
            rest = np.maximum(np.float32(probability) * row - q, 0)
            over = _sum(rest)
            lost = over + 1 - probability
            prefixes.append(_Prefix(probability, over / lost if i and lost > 0 else 1.0, rest))
            ratio = _ratio(np.float32(probability) * _at(row, draft_ids[i]), _at(draft_probs[i], draft_ids[i]))
            probability = float(ratio[0])
        return prefixes


@dataclass(frozen=True, slots=True)
class _Prefix:
    """probability: p_i; passes: h_i; rest [V]: the residual after it, not normalised."""

    probability: float
    passes: float
    rest: Probs


ACCEPTORS: dict[str, Acceptor] = {
    acceptor.name: acceptor for acceptor in (Rejection(), Exact(), Block(), Coupled(), Typical(), Lenient(), Upstream())
}


def find(name: str) -> Acceptor:
    """The acceptor of this name. Raises RequestError listing the names."""
    if name not in ACCEPTORS:
        raise RequestError(f"There is no acceptor {name!r}; choose one of {', '.join(ACCEPTORS)}.")
    return ACCEPTORS[name]


# --- the pieces the rules are made of ---


def check_shapes(draft_ids: Sequence[int], draft_probs: Probs, target_probs: TargetProbs) -> None:
    g = len(draft_ids)
    assert (draft_probs.ndim, len(draft_probs)) == (2, g), (g, draft_probs.shape)
    assert (target_probs.ndim, len(target_probs)) == (2, g + 1), (g, target_probs.shape)


def _sum(weights: Floats) -> float:
    return float(weights.sum(dtype=np.float64))


def _fit(probs: Probs, size: int) -> Probs:
    """The row [V'] as [size]: ids it does not know have probability 0."""
    if probs.size >= size:
        return probs[:size]
    return np.concatenate([probs, np.zeros(size - probs.size, probs.dtype)])


def _support(target_row: Probs, draft_row: Probs) -> tuple[Probs, Probs]:
    """Both rows, of equal size, without the ids neither can say: at most settings a handful remain."""
    draft_row = _fit(draft_row, target_row.size)
    ids = np.flatnonzero((target_row > 0) | (draft_row > 0))
    if 2 * ids.size > target_row.size:
        return target_row, draft_row
    return target_row[ids], draft_row[ids]


def _at(probs: Probs, token: int) -> Probs:
    """The probability of one token, [1]; 0 beyond the vocabulary."""
    return probs[token : token + 1] if token < probs.size else np.zeros(1, probs.dtype)


def _ratio(p: Floats, q: Floats) -> Floats:
    """min(1, p / q) element by element; 0 where p = 0, whatever q is."""
    return p / np.maximum(np.maximum(p, q), TINY)


def _emitted(kept: Floats, rest: Floats, row: Probs, passes: float) -> Floats:
    """The chance of every token [V]: kept as a draft, or else drawn from the rest."""
    over = _sum(rest)
    return kept + passes * (1 - _sum(kept)) * (rest / over if over > 0 else row)


def _distance(emitted: Floats, row: Floats) -> float:
    return _sum(np.abs(emitted - row)) / 2


def from_target(g: int, target_probs: TargetProbs, judgements: tuple[Judgement, ...], noise: RoundNoise) -> Verdict:
    """All g drafts kept, and a bonus token; for g = 0 the target's own token."""
    return Verdict(g, draw(target_probs[g], noise.uniform(g, Purpose.FINAL)), judgements)


def _corrected(kept: int, rest: Probs, row: Probs, judgements: tuple[Judgement, ...], noise: RoundNoise) -> Verdict:
    """`kept` drafts, then a token from the rest; from the target's row where rounding alone refused a draft."""
    over = rest.sum()
    residual = rest / over if over > 0 else row
    return Verdict(kept, draw(residual, noise.uniform(kept, Purpose.FINAL)), judgements, residual)
