"""A sweep of the window k: what each measures, beside what the formula predicts. Stdlib only.

Every run is a race of both arms, so each speedup compares two clocks of the same seconds; the windows take turns
prompt by prompt, each prompt beginning with another, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from app.errors import RequestError
from app.record import theory
from app.record.limits import MAX_K, MIN_K
from app.record.metrics import ArmTotals, Metrics
from app.record.trace import Event, Request, Round, RunFinished, Trace


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


class _Window:
    """The runs of one window."""

    def __init__(self) -> None:
        self.speedups: list[float] = []
        self.target, self.speculative = ArmTotals(), ArmTotals()
        self.identical = 0

    def add(self, metrics: Metrics) -> None:
        if metrics.speedup is not None:
            self.speedups.append(metrics.speedup)
        self.target.add(metrics.arms["target"])
        self.speculative.add(metrics.arms["speculative"])
        self.identical += metrics.first_divergence is None


class Sweep:
    """What has been measured so far."""

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = tuple(sorted(set(ks)))
        self.pair = ""
        self._windows = {k: _Window() for k in self.ks}
        self._widest: list[Trace] = []
        """The traces of the widest window: what a single window tells of the smaller ones."""

    def add(self, events: Trace) -> None:
        """Take in a finished run of both arms."""
        metrics = Metrics(events)
        assert metrics.started is not None
        self.pair = metrics.started.pair
        k = metrics.started.request.k
        assert isinstance(k, int), k
        self._windows[k].add(metrics)
        if k == self.ks[-1]:
            self._widest.append(events)

    @property
    def _target(self) -> ArmTotals:
        return sum((window.target for window in self._windows.values()), ArmTotals())

    @property
    def _speculative(self) -> ArmTotals:
        return sum((window.speculative for window in self._windows.values()), ArmTotals())

    @property
    def acceptance_rate(self) -> float | None:
        """α over every judged draft of the sweep."""
        return self._speculative.acceptance_rate

    @property
    def cost_ratio(self) -> float | None:
        """c over every draft pass of the sweep."""
        draft, one = self._speculative.draft_pass_s, self._target.verify_pass_s
        return draft / one if draft is not None and one else None

    @property
    def target_tpot_s(self) -> float | None:
        """The target alone, over every run of the sweep."""
        return self._target.tpot_s

    @property
    def points(self) -> list[Point]:
        """The windows that have been measured, smallest first."""
        measured = {k: window for k, window in self._windows.items() if window.speedups and window.speculative.judged}
        return [self._point(k, window) for k, window in measured.items()]

    def _point(self, k: int, window: _Window) -> Point:
        target, arm = window.target, window.speculative
        acceptance, cost, one, verify = self.acceptance_rate, self.cost_ratio, target.verify_pass_s, arm.verify_pass_s
        length = arm.mean_acceptance_length
        tpot, alone = arm.tpot_s, target.tpot_s
        assert acceptance is not None
        assert cost is not None
        assert one
        assert verify
        assert length
        assert tpot
        assert alone
        verify_ratio = verify / one
        predicted = theory.predicted_speedup(acceptance, k, cost, verify_ratio)
        speedups = window.speedups
        quartiles = statistics.quantiles(speedups, n=4) if len(speedups) > 1 else [speedups[0]] * 3
        return Point(
            k=k,
            runs=len(speedups),
            tpot_s=tpot,
            target_tpot_s=alone,
            speedup=alone / tpot,
            quartiles=(quartiles[0], quartiles[2]),
            mean_acceptance_length=length,
            acceptance_rate=arm.acceptance_rate,
            verify_ratio=verify_ratio,
            predicted_speedup=predicted,
            predicted_tpot_s=alone / predicted,
            identical=window.identical,
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
    check(session.windows, prompts, ks)
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


def check(windows: tuple[int, ...] | None, prompts: Sequence[str], ks: Iterable[int]) -> None:
    """Raises RequestError unless there is something to sweep. windows: those the pair can run, None = any."""
    wrong = [k for k in ks if not MIN_K <= k <= MAX_K]
    if wrong or not list(ks):
        raise RequestError(
            f"{f'k = {wrong[0]}' if wrong else 'No window'} cannot be swept; choose windows from {MIN_K} to {MAX_K}."
        )
    if windows is not None and (absent := sorted(set(ks) - set(windows))):
        known = ", ".join(map(str, windows))
        raise RequestError(f"The window k = {absent[0]} was not compiled; choose among {known}.")
    if not prompts:
        raise RequestError("There is no prompt to sweep; type one, or choose examples.")


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
