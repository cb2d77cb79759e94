"""What the papers predict, beside what was measured. Pure functions of numbers or of a trace; stdlib only.

Sources: Leviathan et al. 2023 (arXiv 2211.17192), Eq. 1 and Theorem 3.8, with the cost of verifying k tokens
added (`verify_ratio`), which the paper takes to be 1. What-ifs and counterfactuals are estimates from one recorded
run: it tells what was likely at the contexts it visited, not what another run would visit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.record.limits import LENIENCY, MAX_K, MIN_K, TYPICAL_DELTA, TYPICAL_EPSILON
from app.record.trace import DraftedToken, Event, Round, rounds


@dataclass(frozen=True, slots=True)
class Published:
    """Median milliseconds per token of a pair on Trainium, as AWS published them."""

    target: str
    draft: str
    target_ms: float
    draft_ms: float

    @property
    def cost_ratio(self) -> float:
        return self.draft_ms / self.target_ms


PUBLISHED = (
    Published("Llama-2-70B", "Llama-2-7B", 20.6, 3.7),
    Published("Llama-3-70B", "Llama-3-8B", 21.4, 4.7),
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A smaller window: tokens a round would emit, and seconds per token (None where the run was not timed)."""

    k: int
    expected_length: float
    tpot_s: float | None


@dataclass(frozen=True, slots=True)
class Projection:
    """A published pair with an acceptance measured here: the best window, and speedup and TPOT at it."""

    pair: Published
    k: int
    speedup: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """Another acceptor on a recorded trace.

    kept: for each round that drafted, how many drafts it would be expected to keep (a whole number where it flips
    no coin). expected_length: tokens emitted by such a round, on average.
    """

    name: str
    description: str
    kept: tuple[float, ...]
    expected_length: float


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens a round of window k emits when every draft is kept with chance `acceptance`, 0 to 1 (Eq. 1)."""
    if not 0 <= acceptance <= 1 or k < 1:
        raise ValueError(f"acceptance {acceptance!r} must lie in 0..1 and k {k!r} be at least 1")
    return float(k) if acceptance == 1 else (1 - acceptance**k) / (1 - acceptance)


def predicted_speedup(acceptance: float, k: int, cost_ratio: float, verify_ratio: float = 1.0) -> float:
    """TPOT of the target alone over TPOT of window k (Theorem 3.8; with verify_ratio = 1 exactly)."""
    return expected_tokens(acceptance, k) / (verify_ratio + (k - 1) * cost_ratio)


def best_k(
    acceptance: float, ks: Iterable[int], cost_ratio: float, verify_ratio: Callable[[int], float] = lambda k: 1.0
) -> int:
    """Of `ks`, the window of the highest predicted speedup; the smaller of equals."""
    return max(sorted(ks), key=lambda k: predicted_speedup(acceptance, k, cost_ratio, verify_ratio(k)))


def elsewhere(acceptance: float, ks: Iterable[int] = range(MIN_K, MAX_K + 1)) -> list[Projection]:
    """What this acceptance would give at the published latencies: a projection, not a measurement (v taken as 1)."""
    windows = list(ks)
    rows = []
    for pair in PUBLISHED:
        k = best_k(acceptance, windows, pair.cost_ratio)
        speedup = predicted_speedup(acceptance, k, pair.cost_ratio)
        rows.append(Projection(pair, k, speedup, pair.target_ms / speedup))
    return rows


def what_if(*traces: Iterable[Event]) -> list[WhatIf]:
    """Every window from 2 to the widest of the traces, judged from what they recorded; several are pooled.

    The recorded text is walked again with the smaller window. A token that was an accepted draft would be kept again,
    one that corrected a refused draft would be refused again; of a token that was never drafted (a bonus, the tail)
    only the odds are known, those of a draft that follows a kept one. The verify time of a width that was not measured
    lies on the line between its neighbours, the target alone being width 1.
    """
    walks = [walk for walk in map(_Walk, traces) if any(chance is not None for chance in walk.chances)]
    if not walks:
        return []
    widths = _verify_seconds(walks)
    draft_pass = sum(walk.draft_seconds for walk in walks) / sum(walk.drafted for walk in walks)
    host = sum(walk.host_seconds for walk in walks) / sum(walk.rounds for walk in walks)
    unknown = _odds_after_a_kept_draft(walks)
    rows = []
    for k in range(2, max(widths) + 1):
        length = sum(len(walk.chances) for walk in walks) / sum(walk.expected_rounds(k, unknown) for walk in walks)
        tpot = None
        if 1 in widths:
            tpot = (_between(widths, k) + (k - 1) * draft_pass + host) / length
        rows.append(WhatIf(k, length, tpot))
    return rows


class _Walk:
    """The speculative arm of a trace, after its prefill, as a text to be walked again.

    chances: for each token, whether a draft at its place was kept (1.0) or refused (0.0); None where there was none.
    """

    def __init__(self, trace: Iterable[Event]) -> None:
        self.chances: list[float | None] = []
        self.judged: list[bool] = []
        self.after_kept: list[bool] = []
        """Was it kept? Of every judged draft, and of those that followed a kept one."""
        self.rounds = self.drafted = 0
        self.draft_seconds = self.host_seconds = 0.0
        self.verify: dict[int, list[float]] = {}
        for event in trace:
            if isinstance(event, Round) and event.index:
                self._add(event)

    def _add(self, round_: Round) -> None:
        self.verify.setdefault(len(round_.drafted) + 1, []).append(round_.verify_seconds)
        if round_.arm != "speculative":
            return
        self.rounds += 1
        self.drafted += len(round_.drafted)
        self.draft_seconds += round_.draft_seconds
        self.host_seconds += round_.host_seconds
        self.chances += [1.0] * len(round_.accepted)
        if round_.final is not None:
            self.chances.append(0.0 if round_.final.provenance == "corrected" else None)
        judged = [token.state == "accepted" for token in round_.drafted if token.state != "discarded"]
        self.judged += judged
        self.after_kept += judged[1:]

    def expected_rounds(self, k: int, unknown: float) -> float:
        """Rounds of window k to the end of the text; `unknown`: the odds of a token that was not drafted."""
        end = len(self.chances)
        rounds = [0.0] * (end + 1)
        for start in range(end - 1, -1, -1):
            reached, expected = 1.0, 1.0
            last = min(start + k - 1, end)
            for place in range(start, last):
                known = self.chances[place]
                chance = unknown if known is None else known
                expected += reached * (1 - chance) * rounds[place + 1]
                reached *= chance
            rounds[start] = expected + reached * rounds[min(last + 1, end)]
        return rounds[0]


def _odds_after_a_kept_draft(walks: Iterable[_Walk]) -> float:
    """The share of kept drafts among those that followed a kept one; among all where none did."""
    after = [kept for walk in walks for kept in walk.after_kept]
    judged = after or [kept for walk in walks for kept in walk.judged]
    return sum(judged) / len(judged)


def _verify_seconds(walks: Iterable[_Walk]) -> dict[int, float]:
    """Mean seconds of the target's pass by its width; the few shrunken windows at an end are no measurement."""
    by_width: dict[int, list[float]] = {}
    for walk in walks:
        for width, seconds in walk.verify.items():
            by_width.setdefault(width, []).extend(seconds)
    enough = max(3, sum(map(len, by_width.values())) / 20)
    return {
        width: sum(seconds) / len(seconds)
        for width, seconds in sorted(by_width.items())
        if width == max(by_width) or len(seconds) >= enough
    }


def _between(known: dict[int, float], at: int) -> float:
    """The value at `at` on the straight lines through `known`, whose ends enclose it."""
    if at in known:
        return known[at]
    low, high = max(x for x in known if x < at), min(x for x in known if x > at)
    return known[low] + (known[high] - known[low]) * (at - low) / (high - low)


def counterfactuals(trace: Iterable[Event]) -> list[Counterfactual]:
    """The recorded drafts judged again by each rule that needs no more than what a trace holds."""
    drafting = [round_ for round_ in rounds(trace, "speculative") if round_.drafted]
    return [_judge(drafting, name, description, chance) for name, description, chance in _RULES] if drafting else []


def expected_kept(chances: Iterable[float]) -> float:
    """Drafts kept, on average, when each is judged only if all before it were kept."""
    total, survived = 0.0, 1.0
    for chance in chances:
        survived *= chance
        total += survived
    return total


def _judge(
    drafting: list[Round], name: str, description: str, chance: Callable[[DraftedToken], float]
) -> Counterfactual:
    kept = tuple(expected_kept(chance(token) for token in round_.drafted) for round_ in drafting)
    return Counterfactual(name, description, kept, 1 + sum(kept) / len(kept))


def _rejection(token: DraftedToken) -> float:
    chance = min(1.0, token.p / token.q) if token.q > 0 else 0.0
    # A coin that was flipped is known; the others are taken at their odds.
    return chance if token.u is None else float(token.u < chance)


def _lenient(token: DraftedToken) -> float:
    chance = min(1.0, token.p / (LENIENCY * token.q)) if token.q > 0 else 0.0
    return chance if token.u is None else float(token.u < chance)


def _exact(token: DraftedToken) -> float:
    return token.p


def _typical(token: DraftedToken) -> float:
    # The entropy of the row, its unrecorded rest taken as one token: a little too low, so a little too strict.
    known = [other.warped_prob for other in token.target_alternatives if other.warped_prob > 0]
    rest = 1 - sum(known)
    entropy = -sum(prob * math.log(prob) for prob in (*known, *((rest,) if rest > 1e-9 else ())))
    return float(token.p > min(TYPICAL_EPSILON, TYPICAL_DELTA * math.exp(-entropy)))


_RULES: tuple[tuple[str, str, Callable[[DraftedToken], float]], ...] = (
    ("rejection", "Keeps with chance min(1, p/q), by the recorded coin where there is one. Lossless.", _rejection),
    ("exact", "Keeps what the target draws itself, which is the draft with chance p. Lossless.", _exact),
    ("typical", "Keeps what is plausible for the target's entropy, here that of its recorded top. Lossy.", _typical),
    ("lenient", "Rejection with q halved, by the recorded coin where there is one. Lossy.", _lenient),
)
