"""How wide a round's window is: fixed, or chosen online from the acceptance seen so far, the draft's confidence, and
what windows cost.

The choice maximises tokens a second under the papers' model (Leviathan et al. 2023, Theorem 3.8, with the measured
cost of every width in the place of v + (k - 1) c). It is a function of the text so far, and of costs and an acceptance
that were measured once, never of the moment's clock: so while the playground runs, a seed gives the same text each
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.record.trace import Round

PROBED = (1, 2, 3, 4, 6, 8, 12, 16)
"""Widths whose cost is measured; the others lie on straight lines between them."""
ALONE = 3
"""Rounds of the target alone in a row, where costs are measured: a processor's cache serves a pass better after one of
its own kind, and the target alone is followed by itself."""
CYCLES = 6


class Windows(Protocol):
    """Says how wide each round's window is."""

    def next(self) -> int:
        """The coming round's window; 1 is the target alone."""
        ...

    def draft_on(self, sure: Callable[[], float]) -> bool:
        """Whether to draft on after a token the draft was so sure of; asked after each, the last one too."""
        ...

    def judged(self, kept: int, refused: bool) -> None:
        """How many drafts of the last round were kept, and whether one was refused."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same window always."""

    k: int

    def next(self) -> int:
        return self.k

    def draft_on(self, sure: Callable[[], float]) -> bool:
        return True

    def judged(self, kept: int, refused: bool) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round of window k costs, in rounds of the target alone: draft, verify and host together.

    by_window: ascending windows, the first of them 1 at cost 1. Rounded to 1%, so that two measurements seldom differ.
    """

    by_window: tuple[tuple[int, float], ...]

    @staticmethod
    def measured(rounds: Iterable[Round]) -> Costs:
        """From rounds of several windows taken in turn, the narrower first. Those cut short by a stop token are left
        out, and the first to draft after rounds that did not: it reads for all of them.

        The lower quartile of each, since a busy machine only ever adds and the fastest is luck; a wider window never
        counts as cheaper.
        """
        seconds: dict[int, list[float]] = {}
        before: int | None = None
        for round_ in rounds:
            catches_up = before == 1 and round_.k != 1
            if round_.index and len(round_.drafted) + 1 == round_.k and not catches_up:
                seconds.setdefault(round_.k, []).append(round_.seconds)
            before = round_.k
        if 1 not in seconds:  # a context too short to measure in
            return Costs(((1, 1.0), (2, 1.2)))
        one = _lower_quartile(seconds[1])
        costs, highest = [], 1.0
        for k in sorted(seconds):
            highest = max(highest, _lower_quartile(seconds[k]) / one)
            costs.append((k, 1.0 if k == 1 else round(highest, 2)))
        return Costs(tuple(costs))

    def of(self, k: int) -> float:
        """On the straight lines between what was measured; beyond the last, on that of the last two."""
        known = self.by_window
        if len(known) == 1:
            return known[0][1]
        place = next((i for i, (width, _) in enumerate(known) if width >= k), len(known) - 1)
        if place == 0:
            return known[0][1]
        (low, below), (high, above) = known[place - 1], known[place]
        return below + (above - below) * (k - low) / (high - low)


def _lower_quartile(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 4]


class _Share:
    """How often something was so, old cases fading, from a prior that weighs as much as `weight` of them."""

    FADING = 0.98
    """Weight of a case after one more."""

    def __init__(self, prior: float, weight: float) -> None:
        self._so, self._all = prior * weight, weight

    def add(self, so: bool) -> None:
        self._so = self.FADING * self._so + so
        self._all = self.FADING * self._all + 1

    @property
    def value(self) -> float:
        return self._so / self._all


class Acceptance:
    """How often drafts are kept: a round's first one, those after a kept one, and each fifth of the draft's confidence.

    How sure the draft model was of a token (its top probability) says how likely that one is kept. Old cases fade: text
    that is easy for the draft comes in stretches.
    """

    BY_PLACE = (0.5, 0.7), 3.0
    """Shares kept before anything was seen, of a first draft and of those after a kept one; the cases they are
    worth."""
    BY_CONFIDENCE = (0.23, 0.39, 0.55, 0.71, 0.87), 5.0
    """The same by fifths of the confidence. That of a distilled draft is nearly its acceptance at T = 0; at T = 1 the
    unsure are kept more often and the sure less."""

    def __init__(
        self, by_place: Iterable[float] = BY_PLACE[0], by_confidence: Iterable[float] = BY_CONFIDENCE[0]
    ) -> None:
        self._by_place = [_Share(share, self.BY_PLACE[1]) for share in by_place]
        self._by_confidence = [_Share(share, self.BY_CONFIDENCE[1]) for share in by_confidence]
        self._round: list[_Share] = []
        """The shares that this round's drafts will count in."""

    @property
    def first(self) -> float:
        return self._by_place[0].value

    @property
    def later(self) -> float:
        return self._by_place[1].value

    @property
    def drafted(self) -> int:
        """Tokens of the round under way."""
        return len(self._round)

    def draft(self, sure: float) -> float:
        """How likely one more drafted token, of which the draft was so sure, is kept if those before it are."""
        place = int(sure * len(self._by_confidence))
        self._round.append(self._by_confidence[min(place, len(self._by_confidence) - 1)])
        return self._round[-1].value

    def judged(self, kept: int, refused: bool) -> None:
        """The round's end: how many of its drafts were kept, and whether one was refused."""
        for place in range(kept + refused):
            self._by_place[min(place, 1)].add(place < kept)
        for place, share in enumerate(self._round[: kept + refused]):
            share.add(place < kept)
        self._round = []

    def as_prior(self) -> Acceptance:
        """What another text begins with: the same shares, worth as little as those before anything was seen."""
        return Acceptance(*([share.value for share in shares] for shares in (self._by_place, self._by_confidence)))


def probed(offered: Sequence[int]) -> list[int]:
    """The windows whose costs are measured, in turn; the narrowest twice, since what drafts first reads for the rounds
    that did not."""
    narrowest = min(offered)
    return [1] * ALONE + [narrowest, narrowest] + [k for k in PROBED if k in offered and k > narrowest]


class Cycle:
    """Every window in turn, whatever is kept: what costs are measured by, and a first acceptance seen."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.seen = Acceptance()
        self.ks, self._turn = tuple(ks), -1

    def next(self) -> int:
        self._turn += 1
        return self.ks[self._turn % len(self.ks)]

    def draft_on(self, sure: Callable[[], float]) -> bool:
        self.seen.draft(sure())
        return True

    def judged(self, kept: int, refused: bool) -> None:
        self.seen.judged(kept, refused)


class Adaptive:
    """As many drafts as give the most tokens a second for the acceptance seen so far; none, with a probe now and then,
    where drafting does not pay.

    Whether to draft at all is asked before a round, by the acceptance of a round's first draft and of those after it.
    Whether to draft on is asked after each draft, by the draft's confidence: that says whether the next one will be
    judged at all. A probe is one draft, which reads all the text the draft model missed; probes grow rarer the longer
    they fail.
    """

    BEYOND = 2
    """How much wider than the best fixed window a round may become: a draft may be surer than it should be."""
    HYSTERESIS = 1.02
    """How much better drafting must look than not drafting."""
    PROBES = 8, 32, 64
    """Tokens until a probe: where drafting stopped to pay, where it looked so from the beginning, and at most."""

    def __init__(self, costs: Costs, ks: Sequence[int], before: Acceptance | None = None) -> None:
        """ks: the windows that may be chosen, 2 or more each. before: what was seen on another text, which counts only
        where drafting did not pay there: whether much or little was kept says too little of the next text."""
        self._costs = {k: costs.of(k) for k in sorted(ks)}
        self._steps = [costs.of(k + 1) - costs.of(k) for k in range(max(ks))]
        self._seen = Acceptance() if before is None else before.as_prior()
        if self._best()[1] > self.HYSTERESIS:
            self._seen = Acceptance()
        self._survival = 1.0
        self._rate = 1.0
        self._alone = 0
        self._patience = self.PROBES[1]
        self._probing = False

    def next(self) -> int:
        self._survival, self._probing = 1.0, False
        best, self._rate = self._best()
        if self._rate > self.HYSTERESIS:
            self._alone, self._patience = 0, self.PROBES[0]
            return max(k for k in self._costs if k <= best + self.BEYOND)
        if self._alone >= self._patience:
            self._alone, self._probing = 0, True
            return min(self._costs)
        self._alone += 1
        return 1

    def draft_on(self, sure: Callable[[], float]) -> bool:
        """Whether another draft gives more tokens for its time than rounds do."""
        self._survival *= self._seen.draft(sure())
        width = min(self._seen.drafted + 1, len(self._steps) - 1)
        return self._survival * self._seen.later > self._rate * self._steps[width]

    def judged(self, kept: int, refused: bool) -> None:
        self._seen.judged(kept, refused)
        if self._probing and not kept:
            self._patience = min(2 * self._patience, self.PROBES[-1])

    def _best(self) -> tuple[int, float]:
        """The fixed window of the most tokens a second, and how many times as many they are as the target's alone."""
        lengths, survived, length, best = {}, self._seen.first, 1.0, (1, 1.0)
        for k in range(2, max(self._costs) + 1):
            length += survived
            survived *= self._seen.later
            lengths[k] = length
        for k, cost in self._costs.items():
            if lengths[k] / cost > best[1]:
                best = (k, lengths[k] / cost)
        return best
