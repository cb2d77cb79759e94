"""How wide the next window is: fixed, or chosen online from the acceptance seen so far and what windows cost.

The choice maximises tokens a second under the papers' model (Leviathan et al. 2023, Theorem 3.8, with the measured
cost of every width in the place of v + (k - 1) c). It is a function of the text so far and of costs that were measured
once, never of the moment's clock: so while the playground runs, a seed gives the same text each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.trace import Round

PROBED = (1, 2, 3, 4, 6, 8, 12, 16)
"""Widths whose cost is measured; the others lie on straight lines between them."""
CYCLES = 6


class Windows(Protocol):
    """Says how wide each round's window is."""

    def next(self) -> int:
        """The coming round's window; 1 is the target alone."""
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

    def judged(self, kept: int, refused: bool) -> None:
        pass


class Cycle:
    """Every window in turn, whatever is kept: what costs are measured by."""

    def __init__(self, ks: Sequence[int]) -> None:
        self._ks, self._turn = tuple(ks), -1

    def next(self) -> int:
        self._turn += 1
        return self._ks[self._turn % len(self._ks)]

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
        """From rounds of several windows taken in turn; those cut short by a stop token are left out.

        The fastest round of each, since a busy machine only ever adds; a wider window never counts as cheaper.
        """
        seconds: dict[int, list[float]] = {}
        for round_ in rounds:
            if round_.index and len(round_.drafted) + 1 == round_.k:
                seconds.setdefault(round_.k, []).append(round_.seconds)
        if 1 not in seconds:  # a context too short to measure in
            return Costs(((1, 1.0), (2, 1.2)))
        one = min(seconds[1])
        found, highest = [], 1.0
        for k in sorted(seconds):
            highest = max(highest, min(seconds[k]) / one)
            found.append((k, 1.0 if k == 1 else round(highest, 2)))
        return Costs(tuple(found))

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


class Adaptive:
    """The window of the most tokens a second for the acceptance seen so far; 1, with a probe now and then, where
    drafting does not pay.

    Acceptance is counted apart for a round's first draft and for those after a kept one, with old rounds fading: text
    that is easy for the draft comes in stretches. A probe is one draft: its price is small, and probes grow rarer the
    longer they fail.
    """

    FADING = 0.98
    """Weight of a judgement after one more."""
    PRIOR = (0.5, 0.7), 3.0
    """Acceptance before anything was seen, of a first draft and of those after a kept one; the judgements it is worth."""
    HYSTERESIS = 1.01
    """How much better drafting must look than not drafting."""
    PROBES = 8, 64
    """Tokens between two probes, at first and at most."""

    def __init__(self, costs: Costs, ks: Sequence[int]) -> None:
        """ks: the windows that may be chosen, 2 or more each."""
        self._costs = {k: costs.of(k) for k in sorted(ks)}
        chances, weight = self.PRIOR
        self._kept = [chance * weight for chance in chances]
        self._judged = [weight] * 2
        self._alone = 0
        self._patience = self.PROBES[0]
        self._probing = False

    def next(self) -> int:
        best, gain = self._best()
        self._probing = False
        if gain > self.HYSTERESIS:
            self._alone, self._patience = 0, self.PROBES[0]
            return best
        if self._alone >= self._patience:
            self._alone, self._probing = 0, True
            return min(self._costs)
        self._alone += 1
        return 1

    def judged(self, kept: int, refused: bool) -> None:
        for place in range(kept + refused):
            after = min(place, 1)
            self._kept[after] = self.FADING * self._kept[after] + (place < kept)
            self._judged[after] = self.FADING * self._judged[after] + 1
        if self._probing and not kept:
            self._patience = min(2 * self._patience, self.PROBES[1])

    def _best(self) -> tuple[int, float]:
        """The window of the most tokens a second, and how many more than the target alone."""
        first, later = (kept / judged for kept, judged in zip(self._kept, self._judged, strict=True))
        found, survived, length, best = {}, first, 1.0, (1, 1.0)
        for k in range(2, max(self._costs) + 1):
            length += survived
            survived *= later
            found[k] = length
        for k, cost in self._costs.items():
            if found[k] / cost > best[1]:
                best = (k, found[k] / cost)
        return best
