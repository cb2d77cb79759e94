"""What the papers predict, beside what was measured. Pure functions of numbers or of a trace; stdlib only.

Sources: Leviathan et al. 2023 (arXiv 2211.17192), Eq. 1 and Theorem 3.8, with the cost of verifying k tokens
added (`verify_ratio`), which the paper takes to be 1. What-ifs and counterfactuals are estimates from one recorded
run: it tells what was likely at the contexts it visited, not what another run would visit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.metrics import Metrics
from app.trace import DraftedToken, Event, Round, rounds


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


def what_if(trace: Iterable[Event]) -> list[WhatIf]:
    """Every window from 2 to the run's own, judged from its acceptance by position and its times.

    A smaller window keeps the same drafts up to its end, so position i is survived as often as it was. The verify
    time lies on the line between the target's pass over one token (the target arm's) and over the window.
    """
    metrics = Metrics(trace)
    arm = metrics.arms.get("speculative")
    if arm is None or not arm.drafted or not arm.rounds:
        return []
    one = metrics.arms["target"].verify_pass_s if "target" in metrics.arms else None
    widest, draft_pass, host = arm.verify_pass_s, arm.draft_pass_s, arm.host_seconds / arm.rounds
    found = []
    for k in range(2, arm.window + 1):
        length = 1 + sum(arm.acceptance_by_position[: k - 1])
        tpot = None
        if one is not None and widest is not None and draft_pass is not None:
            verify = one + (widest - one) * (k - 1) / (arm.window - 1)
            tpot = (verify + (k - 1) * draft_pass + host) / length
        found.append(WhatIf(k, length, tpot))
    return found


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
    chance = min(1.0, token.p / (0.5 * token.q)) if token.q > 0 else 0.0
    return chance if token.u is None else float(token.u < chance)


def _exact(token: DraftedToken) -> float:
    return token.p


def _typical(token: DraftedToken) -> float:
    # The entropy of the row, its unrecorded rest taken as one token: a little too low, so a little too strict.
    known = [other.warped_prob for other in token.target_alternatives if other.warped_prob > 0]
    rest = 1 - sum(known)
    entropy = -sum(prob * math.log(prob) for prob in (*known, *((rest,) if rest > 1e-9 else ())))
    return float(token.p > min(0.09, 0.3 * math.exp(-entropy)))


_RULES: tuple[tuple[str, str, Callable[[DraftedToken], float]], ...] = (
    ("rejection", "Keeps with chance min(1, p/q), by the recorded coin where there is one. Lossless.", _rejection),
    ("exact", "Keeps what the target draws itself, which is the draft with chance p. Lossless.", _exact),
    ("typical", "Keeps what is plausible for the target's entropy, here that of its recorded top. Lossy.", _typical),
    ("lenient", "Rejection with q halved, by the recorded coin where there is one. Lossy.", _lenient),
)
