"""Acceptors: which drafted tokens are kept, and what the target says instead.

An acceptor is lossless if the emitted tokens are distributed exactly as the target alone would emit them. Sources:
`rejection` Chen et al. 2023 (arXiv 2302.01318) and Leviathan et al. 2023 (2211.17192), whose leniency is `lenient`;
`block` Sun et al. 2024 (2403.10444); `coupled` Daliri et al. 2024 (2408.07978); `typical` Cai et al. 2024 (2401.10774);
`upstream` is what the stock loop of transformers-neuronx does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from app.engine.noise import Purpose, RoundNoise, draw, gumbel_max, gumbel_sum
from app.engine.rows import check_shapes, distance, emitted, fit, kept_share, support, total
from app.engine.sampling import Floats, Probs
from app.engine.scored import DraftProbs, TargetProbs, at, chance, draw_rest, drawn
from app.errors import RequestError
from app.record.limits import LENIENCY, TYPICAL_DELTA, TYPICAL_EPSILON
from app.record.trace import Grounds


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

    @property
    def draws(self) -> bool:
        """Whether `propose` is the plain draw by the DRAFT coin, which may then be made where the draft's rows are."""
        return type(self).propose is Acceptor.propose

    def propose(self, draft_probs: Probs, noise: RoundNoise, offset: int) -> int:
        """The draft's token at `offset` in the window, from its warped distribution [V]."""
        return draw(draft_probs, noise.uniform(offset, Purpose.DRAFT))

    @abstractmethod
    def __call__(
        self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs, noise: RoundNoise
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

    def grounds(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs, noise: RoundNoise
    ) -> tuple[Grounds, ...]:
        """What the rule went by at each of the g judged drafts, besides the coin: for the viewer, and worked out again,
        so that `__call__` spends no time on it. Arguments as there. () where a rule has nothing to add."""
        return ()


class TokenWise(Acceptor):
    """Acceptors that judge the drafts one by one from the left and stop at the first they refuse."""

    coin: ClassVar[bool] = True
    whole_row: ClassVar[bool] = False
    """Whether `keep` looks at more of the target's row than p."""

    def proposal(self, draft_probs: Probs) -> Probs:
        """The distribution `propose` draws from, [V]."""
        return draft_probs

    @abstractmethod
    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        """The probability of keeping tokens whose target and draft probabilities are p and q [n].

        target_probs [V]: the target's whole row, where `whole_row`.
        """

    def residual(self, target_probs: Probs, draft_probs: Probs) -> Probs:
        """What a corrected token is drawn from, not normalised; both [V]."""
        rest: Probs = np.maximum(target_probs - draft_probs, 0)
        return rest

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs, noise: RoundNoise
    ) -> Verdict:
        check_shapes(draft_ids, draft_probs, target_probs)
        judgements: list[Judgement] = []
        for offset, token in enumerate(draft_ids):
            p, q = chance(target_probs, offset, token), chance(draft_probs, offset, token)
            threshold = float(self.keep(target_probs[offset] if self.whole_row else p, p, q)[0])
            u = noise.uniform(offset, Purpose.ACCEPT)
            judgements.append(Judgement(u, threshold) if self.coin else Judgement())
            if u >= threshold:
                if type(self).residual is TokenWise.residual:
                    own = draw_rest(target_probs, draft_probs, offset, noise.uniform(offset, Purpose.FINAL))
                    if own is not None:
                        return Verdict(offset, own[0], tuple(judgements), own[1])
                row = target_probs[offset]
                rest = self.residual(row, fit(draft_probs[offset], row.size))
                return _corrected(offset, rest, row, tuple(judgements), noise)
        return from_target(len(draft_ids), target_probs, tuple(judgements), noise)

    def total_variation(self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs) -> float:
        check_shapes(draft_ids, draft_probs, target_probs)
        worst = 0.0
        for target_row, draft_row in zip(target_probs, draft_probs, strict=False):  # the last target row judges nothing
            row, q = support(target_row, draft_row)
            kept = self.proposal(q) * self.keep(row, row, q)
            worst = max(worst, distance(emitted(kept, self.residual(row, q), row, 1.0), row))
        return worst


class Rejection(TokenWise):
    name = "rejection"
    description = (
        "Keep a draft with probability min(1, p/q), else draw from the normalised rest of p over q (Chen et al.)."
    )
    lossless = True

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        return kept_share(p, q)


class Lenient(Rejection):
    name = "lenient"
    description = "Rejection with q halved before the test: keeps more, says unlikely tokens up to twice as often."
    lossless = False

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        return kept_share(p, LENIENCY * q)


class Typical(TokenWise):
    name = "typical"
    description = (
        "Keep any draft that is plausible for the target's entropy, with no coin "
        f"(Medusa, ε = {TYPICAL_EPSILON}, δ = {TYPICAL_DELTA})."
    )
    lossless = False
    coin = False
    whole_row = True

    def keep(self, target_probs: Probs, p: Floats, q: Floats) -> Floats:
        plausible: Floats = (p > self._bar(self._entropy(target_probs))).astype(np.float32)
        return plausible

    def residual(self, target_probs: Probs, draft_probs: Probs) -> Probs:
        return target_probs

    def grounds(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs, noise: RoundNoise
    ) -> tuple[Grounds, ...]:
        entropies = [self._entropy(row) for row in target_probs[: len(draft_ids)]]
        return tuple(Grounds(entropy=entropy, bar=self._bar(entropy)) for entropy in entropies)

    @staticmethod
    def _entropy(row: Probs) -> float:
        """Of the warped row, in nats."""
        some = row[row > 0]
        return max(0.0, -float(np.sum(some * np.log(some), dtype=np.float64)))

    @staticmethod
    def _bar(entropy: float) -> float:
        """What a draft's p must be above."""
        return min(TYPICAL_EPSILON, TYPICAL_DELTA * math.exp(-entropy))


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

    @abstractmethod
    def ground(self, token: int, row: Probs, noise: RoundNoise, offset: int) -> Grounds:
        """What a draft `token` was held against at `offset`; row [V]: the target's warped one."""

    def grounds(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs, noise: RoundNoise
    ) -> tuple[Grounds, ...]:
        return tuple(self.ground(token, target_probs[offset], noise, offset) for offset, token in enumerate(draft_ids))

    def __call__(
        self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs, noise: RoundNoise
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
        return max((distance(row / total(row), row) for row in target_probs[: len(draft_ids)]), default=0.0)


class Exact(TargetLed):
    name = "exact"
    description = (
        "The target draws its own token and a draft is kept while it is the same: the text of the target alone."
    )

    def pick(self, probs: Probs, noise: RoundNoise, offset: int) -> int:
        return draw(probs, noise.uniform(offset, Purpose.FINAL))

    def ground(self, token: int, row: Probs, noise: RoundNoise, offset: int) -> Grounds:
        return Grounds(own_id=self.pick(row, noise, offset), own_u=noise.uniform(offset, Purpose.FINAL))


class Coupled(TargetLed):
    name = "coupled"
    description = (
        "Exact, but both models pick by Gumbel-max with the same noise, so they agree more often (Daliri et al.)."
    )

    def pick(self, probs: Probs, noise: RoundNoise, offset: int) -> int:
        return gumbel_max(probs, noise, offset)

    def ground(self, token: int, row: Probs, noise: RoundNoise, offset: int) -> Grounds:
        own = self.pick(row, noise, offset)
        sums = [gumbel_sum(row, noise, offset, id_) for id_ in (own, token)]
        return Grounds(own_id=own, own_sum=sums[0], draft_sum=sums[1])

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
        self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs, noise: RoundNoise
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
                row, q = support(target_row, draft_row)
                scaled = np.float32(prefix.probability) * row
                kept = q * kept_share(scaled, q)
                spread = emitted(kept, np.maximum(scaled - q, 0), row, prefix.passes) / prefix.probability
                worst = max(worst, distance(spread, row))
        return worst

    def grounds(
        self, draft_ids: Sequence[int], draft_probs: Probs, target_probs: Probs, noise: RoundNoise
    ) -> tuple[Grounds, ...]:
        prefixes = self._prefixes(draft_ids, draft_probs, target_probs)
        return tuple(Grounds(prefix_ratio=prefix.probability) for prefix in prefixes[1:])

    def _prefixes(self, draft_ids: Sequence[int], draft_probs: DraftProbs, target_probs: TargetProbs) -> list[_Prefix]:
        """The prefixes of length 0 to g; the empty one always passes."""
        g = len(draft_ids)
        probability = 1.0
        prefixes = []
        for i, row in enumerate(target_probs):
            if i == g:
                prefixes.append(_Prefix(probability, probability, row))
                break
            q = fit(draft_probs[i], row.size)
            rest = np.maximum(np.float32(probability) * row - q, 0)
            over = total(rest)
            lost = over + 1 - probability
            prefixes.append(_Prefix(probability, over / lost if i and lost > 0 else 1.0, rest))
            ratio = kept_share(np.float32(probability) * at(row, draft_ids[i]), at(draft_probs[i], draft_ids[i]))
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


# --- how a round ends ---


def from_target(g: int, target_probs: TargetProbs, judgements: tuple[Judgement, ...], noise: RoundNoise) -> Verdict:
    """All g drafts kept, and a bonus token; for g = 0 the target's own token."""
    return Verdict(g, drawn(target_probs, g, noise.uniform(g, Purpose.FINAL)), judgements)


def _corrected(kept: int, rest: Probs, row: Probs, judgements: tuple[Judgement, ...], noise: RoundNoise) -> Verdict:
    """`kept` drafts, then a token from the rest; from the target's row where rounding alone refused a draft."""
    over = rest.sum()
    residual = rest / over if over > 0 else row
    return Verdict(kept, draw(residual, noise.uniform(kept, Purpose.FINAL)), judgements, residual)
