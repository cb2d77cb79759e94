"""What a run says to whoever tunes it: one sentence each, with the figure it rests on. Stdlib only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.record import theory
from app.record.calibration import calibrate, merged
from app.record.histogram import kept_per_round
from app.record.limits import AUTO
from app.record.metrics import Metrics
from app.record.trace import Trace, rounds

SURE, UNSURE = 0.8, 0.5
"""A draft's confidence from which it is called sure, and below which unsure."""
LITTLE = 0.03
"""A share of time too small to speak of, on a machine that does other things as well."""
AMISS = 0.05
"""How far acceptance must lie from confidence, beyond what chance explains."""
ALONE = 8
"""Rounds of the target alone in a row that count as having stopped to draft."""


@dataclass(frozen=True, slots=True)
class Advice:
    """kind: what it is about, one word. figure: what the sentence rests on: a share, a ratio, or seconds a token."""

    kind: str
    sentence: str
    figure: float


def advise(trace: Trace) -> list[Advice]:
    """All that this run gives reason to say, the most telling first; [] for a run that did not draft."""
    metrics = Metrics(trace)
    said = [judge(trace, metrics) for judge in _JUDGES]
    return [each for each in said if each is not None]


def _pays(trace: Trace, metrics: Metrics) -> Advice | None:
    speedup = metrics.speedup
    if speedup is None or not metrics.arms["speculative"].drafted:
        return None
    change = speedup - 1 if speedup >= 1 else 1 / speedup - 1
    stopped = "; auto has stopped drafting" if _auto_stopped(trace, metrics) else ""
    if change < LITTLE:
        return Advice(
            "pays", f"Drafting saves on this text what it costs, {speedup:.2f} times as fast{stopped}.", speedup
        )
    if speedup < 1:
        return Advice("pays", f"Drafting costs {100 * change:.0f}% on this text{stopped}.", change)
    return Advice("pays", f"Drafting pays on this text: {speedup:.2f} times as fast{stopped}.", speedup)


def _auto_stopped(trace: Trace, metrics: Metrics) -> bool:
    """Whether k = auto chose not to draft in the last rounds, before the tail of the answer forced it."""
    if metrics.started is None or metrics.started.request.k != AUTO:
        return False
    last = rounds(trace, "speculative")[-ALONE:]
    return len(last) == ALONE and all(round_.k == 1 for round_ in last)


def _sure(trace: Trace, metrics: Metrics) -> Advice | None:
    """Fewer kept than the draft was sure of: at any temperature, since a coin keeps a draft at least as often as p
    says."""
    top = merged(part for part in calibrate(trace) if part.low >= SURE)
    if top is None or top.interval[1] > top.confidence - AMISS:
        return None
    return Advice(
        "confidence",
        f"The draft is over-confident above {SURE:.1f}: {100 * top.confidence:.0f}% sure on average, "
        f"{100 * top.acceptance:.0f}% of {top.judged} kept.",
        top.confidence - top.acceptance,
    )


def _unsure(trace: Trace, metrics: Metrics) -> Advice | None:
    """More kept than it was sure of: only at temperature 0, without a coin's or a lossy rule's leniency."""
    started = metrics.started
    if started is None or started.request.sampling.temperature > 0 or not started.lossless:
        return None
    bottom = merged(part for part in calibrate(trace) if part.high <= UNSURE)
    if bottom is None or bottom.interval[0] < bottom.confidence + AMISS:
        return None
    return Advice(
        "doubt",
        f"The draft is too unsure of itself below {UNSURE:.1f}: {100 * bottom.confidence:.0f}% sure on average, "
        f"{100 * bottom.acceptance:.0f}% of {bottom.judged} kept.",
        bottom.acceptance - bottom.confidence,
    )


def _nothing_kept(trace: Trace, metrics: Metrics) -> Advice | None:
    counts = kept_per_round(trace)
    if not counts or counts[0] / sum(counts) < 0.5:
        return None
    share = counts[0] / sum(counts)
    return Advice("nothing", f"In {100 * share:.0f}% of the rounds that drafted nothing was kept.", share)


def window_advice(metrics: Metrics, windows: list[theory.WhatIf]) -> Advice | None:
    """A smaller window by what-if, or a wider one where most are kept to their end; of the run's `theory.what_if`."""
    timed = [(other.tpot_s, other.k) for other in windows if other.tpot_s is not None]
    if not timed or metrics.started is None or metrics.started.request.k == AUTO:  # auto takes its own advice
        return None
    own, best = timed[-1], min(timed)
    if best[0] < (1 - LITTLE) * own[0]:
        return Advice(
            "window",
            f"Drafts were kept too seldom for k = {own[1]}: judged by this run, k = {best[1]} would take about "
            f"{1000 * best[0]:.1f} ms a token instead of {1000 * own[0]:.1f}.",
            best[0],
        )
    to_the_end = metrics.arms["speculative"].acceptance_by_position[-1]
    if to_the_end > 0.5:
        return Advice(
            "window",
            f"{100 * to_the_end:.0f}% of the windows were kept to their end: a longer one than k = {own[1]} may pay.",
            to_the_end,
        )
    return None


def _costly_draft(trace: Trace, metrics: Metrics) -> Advice | None:
    arm = metrics.arms.get("speculative")
    share = arm.shares["draft"] if arm is not None else None
    if share is None or share < 0.5:
        return None
    return Advice("draft", f"Drafting takes {100 * share:.0f}% of the time: a smaller draft or window may pay.", share)


_JUDGES: tuple[Callable[[Trace, Metrics], Advice | None], ...] = (
    _pays,
    lambda trace, metrics: window_advice(metrics, theory.what_if(trace)),
    _nothing_kept,
    _sure,
    _unsure,
    _costly_draft,
)
