"""A sweep of the window k: what each measures, beside what the formula predicts. Stdlib only.

Every run is a race of both arms, so each speedup compares two clocks of the same seconds; the windows take turns
prompt by prompt, each prompt beginning with another, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from app import theory
from app.errors import RequestError
from app.metrics import Metrics
from app.trace import Event, Request, Round, RunFinished, Trace

DEFAULT_KS = (2, 3, 4, 5, 8)
SMALLEST, LARGEST = 2, 16


class Runner(Protocol):
    """What a sweep needs of a session."""

    @property
    def windows(self) -> tuple[int, ...] | None: ...
    def run(self, request: Request) -> Generator[Event, None, None]: ...


@dataclass(frozen=True, slots=True)
class Point:
    """One window over all its runs. TPOT: all seconds over all tokens; speedup: the target's TPOT in the same runs
    over it, quartiles over the runs. Predicted: the formula with the acceptance and c of the whole sweep, v of this k."""

    k: int
    runs: int
    tpot_s: float
    target_tpot_s: float
    speedup: float
    quartiles: tuple[float, float]
    mean_acceptance_length: float
    acceptance_rate: float | None
    verify_ratio: float
    predicted_speedup: float
    predicted_tpot_s: float
    identical: int
    """Runs in which both arms printed the same text."""


@dataclass(slots=True)
class _Sums:
    """Several runs of one window, added up. seconds and tokens: what TPOT divides, by arm."""

    speedups: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {"target": 0.0, "speculative": 0.0})
    tokens: dict[str, int] = field(default_factory=lambda: {"target": 0, "speculative": 0})
    rounds: int = 0
    emitted: int = 0
    accepted: int = 0
    judged: int = 0
    drafted: int = 0
    draft_seconds: float = 0.0
    verify: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    identical: int = 0

    def add(self, metrics: Metrics) -> None:
        for name, arm in metrics.arms.items():
            if arm.tpot_s is not None:
                self.seconds[name] += arm.tpot_s * (arm.tokens - 1)
                self.tokens[name] += arm.tokens - 1
        if metrics.speedup is not None:
            self.speedups.append(metrics.speedup)
        target, arm = metrics.arms["target"], metrics.arms["speculative"]
        self.rounds += arm.rounds
        self.emitted += arm.emitted
        self.accepted += arm.accepted
        self.judged += arm.accepted + arm.counts["rejected"]
        self.drafted += arm.drafted
        self.draft_seconds += arm.draft_seconds
        for passes, seconds in ((self.verify, arm.verify_pass_s), (self.one, target.verify_pass_s)):
            if seconds is not None:
                passes.append(seconds)
        self.identical += metrics.first_divergence is None


class Sweep:
    """What has been measured so far."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = tuple(sorted(set(ks)))
        self.pair = ""
        self._sums = {k: _Sums() for k in self.ks}
        self._widest: list[Trace] = []
        """The traces of the widest window: what a single window tells of the smaller ones."""

    def add(self, events: Trace) -> None:
        """Take in a finished run of both arms."""
        metrics = Metrics(events)
        assert metrics.started is not None
        self.pair = metrics.started.pair
        k = metrics.started.request.k
        self._sums[k].add(metrics)
        if k == self.ks[-1]:
            self._widest.append(events)

    @property
    def acceptance_rate(self) -> float | None:
        """α over every judged draft of the sweep."""
        judged = sum(sums.judged for sums in self._sums.values())
        return sum(sums.accepted for sums in self._sums.values()) / judged if judged else None

    @property
    def cost_ratio(self) -> float | None:
        """c over every draft pass of the sweep."""
        drafted = sum(sums.drafted for sums in self._sums.values())
        one = [seconds for sums in self._sums.values() for seconds in sums.one]
        if not drafted or not one:
            return None
        return sum(sums.draft_seconds for sums in self._sums.values()) / drafted / statistics.mean(one)

    @property
    def target_tpot_s(self) -> float | None:
        """The target alone, over every run of the sweep."""
        tokens = sum(sums.tokens["target"] for sums in self._sums.values())
        return sum(sums.seconds["target"] for sums in self._sums.values()) / tokens if tokens else None

    @property
    def points(self) -> list[Point]:
        """The windows that have been measured, smallest first."""
        return [self._point(k, sums) for k, sums in self._sums.items() if sums.speedups and sums.verify and sums.judged]

    def _point(self, k: int, sums: _Sums) -> Point:
        tpot = {arm: sums.seconds[arm] / sums.tokens[arm] for arm in sums.seconds}
        verify_ratio = statistics.mean(sums.verify) / statistics.mean(sums.one)
        acceptance, cost = self.acceptance_rate, self.cost_ratio
        assert acceptance is not None
        assert cost is not None
        predicted = theory.predicted_speedup(acceptance, k, cost, verify_ratio)
        quartiles = statistics.quantiles(sums.speedups, n=4) if len(sums.speedups) > 1 else [sums.speedups[0]] * 3
        return Point(
            k=k,
            runs=len(sums.speedups),
            tpot_s=tpot["speculative"],
            target_tpot_s=tpot["target"],
            speedup=tpot["target"] / tpot["speculative"],
            quartiles=(quartiles[0], quartiles[2]),
            mean_acceptance_length=sums.emitted / sums.rounds,
            acceptance_rate=sums.accepted / sums.judged,
            verify_ratio=verify_ratio,
            predicted_speedup=predicted,
            predicted_tpot_s=tpot["target"] / predicted,
            identical=sums.identical,
        )

    @property
    def best(self) -> Point | None:
        """The window of the highest speedup; the smaller of equals."""
        return max(self.points, key=lambda point: point.speedup, default=None)

    def regret(self, point: Point) -> float:
        """The share of time this window loses against the best: 0.1 is 10% more for the same text."""
        best = self.best
        assert best is not None
        return best.speedup / point.speedup - 1

    @property
    def what_if(self) -> list[theory.WhatIf]:
        """Every smaller window as the runs of the widest alone tell it."""
        return theory.what_if(*self._widest)

    def to_json(self) -> dict[str, Any]:
        """JSON types; seconds."""
        best = self.best
        return {
            "type": "sweep",
            "pair": self.pair,
            "target_tpot_s": self.target_tpot_s,
            "acceptance_rate": self.acceptance_rate,
            "cost_ratio": self.cost_ratio,
            "best_k": None if best is None else best.k,
            "points": [{**asdict(point), "regret": self.regret(point)} for point in self.points],
            "what_if": [asdict(other) for other in self.what_if],
            "elsewhere": [asdict(other) for other in self.elsewhere],
            "words": sentences(self),
        }

    @property
    def elsewhere(self) -> list[theory.Projection]:
        """This acceptance at the published latencies; nothing before something was judged."""
        return [] if self.acceptance_rate is None else theory.elsewhere(self.acceptance_rate)


@dataclass(frozen=True, slots=True)
class Step:
    """How far a sweep is: runs done of all, what the next one is ("" after the last), and the share of it that is done."""

    done: int
    total: int
    doing: str
    sweep: Sweep
    within: float = 0.0

    @property
    def share(self) -> float:
        """Of the whole sweep, 0 to 1."""
        return (self.done + self.within) / self.total


def sweep(
    session: Runner, request: Request, prompts: Sequence[str], ks: Sequence[int], repeats: int = 1
) -> Generator[Step, None, None]:
    """Run `request` with every window on every prompt, `repeats` times. A step before each run, after each of its
    rounds, and one after the last run.

    Raises RequestError before anything runs for windows that cannot work, and in between for a run that fails.
    Closing the generator closes the run under way.
    """
    check(session, ks)
    if not prompts:
        raise RequestError("There is no prompt to sweep; type one, or choose examples.")
    found = Sweep(ks)
    order = [
        (prompt, found.ks[(turn + place) % len(found.ks)])
        for turn, prompt in enumerate([prompt for _ in range(repeats) for prompt in prompts])
        for place in range(len(found.ks))
    ]
    for done, (prompt, k) in enumerate(order):
        step = Step(done, len(order), f"k = {k}: {_short(prompt)}", found)
        yield step
        trace: Trace = []
        tokens = 0
        with closing(session.run(replace(request, prompt=prompt, k=k, arms="both"))) as events:
            for event in events:
                trace.append(event)
                if isinstance(event, Round):
                    tokens += len(event.token_ids)
                    yield replace(step, within=min(1.0, tokens / (2 * request.max_tokens)))
        last = trace[-1]
        if isinstance(last, RunFinished) and last.reason == "error":
            raise RequestError(last.message)
        found.add(trace)
    yield Step(len(order), len(order), "", found)


def check(session: Runner, ks: Iterable[int]) -> None:
    """Raises RequestError unless every window can run."""
    wrong = [k for k in ks if not SMALLEST <= k <= LARGEST]
    if wrong or not list(ks):
        raise RequestError(
            f"{f'k = {wrong[0]}' if wrong else 'No window'} cannot be swept; choose windows from {SMALLEST} to {LARGEST}."
        )
    if session.windows is not None and (absent := sorted(set(ks) - set(session.windows))):
        known = ", ".join(map(str, session.windows))
        raise RequestError(f"The window k = {absent[0]} was not compiled; choose among {known}.")


def _short(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


# --- in words ---


def sentences(found: Sweep) -> list[str]:
    """Which k is best, what the others cost, and how far the formula was off. Nothing before a first point."""
    best, points = found.best, found.points
    if best is None:
        return []
    told = [_verdict(best, alone=len(points) == 1)]
    others = sorted((point for point in points if point.k != best.k), key=found.regret)
    if others:
        losses = [f"{100 * found.regret(point):.0f}% (k = {point.k})" for point in others]
        told.append(f"A wrong k costs time for the same text: {_listed(losses)} more than k = {best.k}.")
    off = max(points, key=lambda point: abs(point.predicted_speedup / point.speedup - 1))
    share = off.predicted_speedup / off.speedup - 1
    told.append(
        f"The formula is off by {100 * abs(share):.0f}% at most (k = {off.k}, "
        f"{'above' if share > 0 else 'below'} what was measured): it takes every draft to be kept with the same chance, "
        "and counts no time of the host."
    )
    return told


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _verdict(best: Point, alone: bool) -> str:
    figures = f"{1000 * best.tpot_s:.1f} ms a token against {1000 * best.target_tpot_s:.1f} ms for the target alone"
    if best.speedup <= 1:
        return (
            f"No window pays here: even k = {best.k} takes {figures}. The draft agrees too rarely for what it costs; "
            "a draft that agrees more often, or a lower temperature, would help."
        )
    name = f"k = {best.k} is" if alone else f"k = {best.k} is the best of these:"
    return f"{name} {best.speedup:.2f} times as fast, {figures}."


def table(found: Sweep) -> Iterable[str]:
    """The lines of a text table, ratios first."""
    yield f"{'k':>3} {'speedup':>8} {'quartiles':>13} {'predicted':>10} {'time lost':>10} {'tokens/pass':>12} {'v':>6} {'TPOT ms':>8} {'what-if ms':>11} {'same text':>10}"
    guessed = {other.k: other for other in found.what_if}
    for point in found.points:
        other = guessed.get(point.k)
        ms = "–" if other is None or other.tpot_s is None else f"{1000 * other.tpot_s:.2f}"
        spread = f"{point.quartiles[0]:.2f} – {point.quartiles[1]:.2f}"
        yield (
            f"{point.k:>3} {point.speedup:>8.2f} {spread:>13} {point.predicted_speedup:>10.2f} {found.regret(point):>+10.0%} "
            f"{point.mean_acceptance_length:>12.2f} {point.verify_ratio:>6.2f} {1000 * point.tpot_s:>8.2f} {ms:>11} "
            f"{f'{point.identical} of {point.runs}':>10}"
        )
