"""What a sweep has measured so far, and how its variants stand to each other. Stdlib only.

All are held against one basis: the target alone, over every run of the sweep (of the first pair, where pairs are
swept). So the ranking by speedup is that by time, and a run that happened to meet a slow target gains nothing by it.
How sure the ranking is, is read from its turns: a turn is every variant on one prompt once, so that a slow minute falls
on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.record import theory
from app.record.intervals import Interval, ratio_interval
from app.record.metrics import ArmMetrics, ArmTotals, Metrics
from app.record.trace import Trace
from app.record.variants import Variant, labels, varies


@dataclass(frozen=True, slots=True)
class Point:
    """One variant over all its runs. TPOT: all seconds over all tokens; target_tpot_s: the target alone, over all runs
    of the same pair; speedup: the sweep's basis over the TPOT. interval: 95% of the speedup, over the turns; None for
    one turn. Predicted: the formula, with the acceptance and c of all variants that differ in k only, and v of this
    one; None for k = auto, and where nothing was judged."""

    variant: Variant
    label: str
    runs: int
    tpot_s: float
    target_tpot_s: float
    speedup: float
    interval: Interval | None
    mean_acceptance_length: float
    acceptance_rate: float | None
    verify_ratio: float | None
    predicted_speedup: float | None
    predicted_tpot_s: float | None
    identical: int
    """Runs in which both arms printed the same text."""
    lossless: bool


class _Runs:
    """The runs of one variant, and of each turn (seconds, tokens) of both arms."""

    def __init__(self) -> None:
        self.count = self.identical = 0
        self.lossless = True
        self.target, self.speculative = ArmTotals(), ArmTotals()
        self.turns: dict[int, tuple[float, float, float, float]] = {}

    def add(self, turn: int, metrics: Metrics) -> None:
        assert metrics.started is not None
        target, arm = metrics.arms["target"], metrics.arms["speculative"]
        self.count += 1
        self.identical += metrics.first_divergence is None
        self.lossless = metrics.started.lossless
        self.target.add(target)
        self.speculative.add(arm)
        before = self.turns.get(turn, (0.0, 0.0, 0.0, 0.0))
        after = (*_decoding(target), *_decoding(arm))
        self.turns[turn] = (before[0] + after[0], before[1] + after[1], before[2] + after[2], before[3] + after[3])


def _decoding(arm: ArmMetrics) -> tuple[float, float]:
    """Seconds and tokens after the first token."""
    tokens = max(arm.tokens - 1, 0)
    return (arm.tpot_s or 0.0) * tokens, float(tokens)


class Sweep:
    """What has been measured so far."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.variants = tuple(variants)
        self.labels = labels(self.variants)
        self.pair = ""
        self._runs = {variant: _Runs() for variant in self.variants}
        self._widest = max(self.variants, key=lambda each: each.width, default=None)
        self._widest_traces: list[Trace] = []
        """The traces of the widest window: what a single window tells of the smaller ones."""
        self._points: list[Point] | None = None

    def add(self, events: Trace, variant: Variant, turn: int) -> None:
        """Take in a finished run of both arms."""
        metrics = Metrics(events)
        assert metrics.started is not None
        self.pair = self.pair or metrics.started.pair
        self._runs[variant].add(turn, metrics)
        self._points = None
        if variant == self._widest and self.only_k:
            self._widest_traces.append(events)

    @property
    def only_k(self) -> bool:
        """Whether the variants differ in nothing but the window: then formula and what-if have their say."""
        return varies(self.variants) <= {"k"}

    # --- the whole sweep ---

    @property
    def acceptance_rate(self) -> float | None:
        """α over every judged draft of the sweep."""
        return self._total("speculative", self.variants).acceptance_rate

    @property
    def cost_ratio(self) -> float | None:
        """c over every draft pass of the sweep."""
        return self._cost_ratio(self.variants)

    @property
    def target_tpot_s(self) -> float | None:
        """The basis: the target alone, over every run of the sweep (of the first pair)."""
        return self._total("target", self._of_pair(self.variants[0])).tpot_s

    def _of_pair(self, variant: Variant) -> list[Variant]:
        return [each for each in self.variants if each.pair == variant.pair]

    def _but_k(self, variant: Variant) -> list[Variant]:
        return [each for each in self.variants if varies([each, variant]) <= {"k"}]

    def _total(self, arm: str, variants: Sequence[Variant]) -> ArmTotals:
        return sum((getattr(self._runs[each], arm) for each in variants), ArmTotals())

    def _cost_ratio(self, variants: Sequence[Variant]) -> float | None:
        draft, one = self._total("speculative", variants).draft_pass_s, self._total("target", variants).verify_pass_s
        return draft / one if draft is not None and one else None

    # --- each variant ---

    @property
    def points(self) -> list[Point]:
        """The variants that have been measured, in their order."""
        if self._points is None:
            points = [self._point(variant, runs) for variant, runs in self._runs.items()]
            self._points = [point for point in points if point is not None]
        return self._points

    def _point(self, variant: Variant, runs: _Runs) -> Point | None:
        arm = runs.speculative
        tpot, length, basis = arm.tpot_s, arm.mean_acceptance_length, self.target_tpot_s
        own = self._total("target", self._of_pair(variant))
        if not tpot or not length or not basis or not own.tpot_s:
            return None
        verify_ratio = arm.verify_pass_s / own.verify_pass_s if arm.verify_pass_s and own.verify_pass_s else None
        predicted = self._predicted(variant, verify_ratio)
        return Point(
            variant=variant,
            label=self.labels[variant],
            runs=runs.count,
            tpot_s=tpot,
            target_tpot_s=own.tpot_s,
            speedup=basis / tpot,
            interval=self._interval(variant),
            mean_acceptance_length=length,
            acceptance_rate=arm.acceptance_rate,
            verify_ratio=verify_ratio,
            predicted_speedup=None if predicted is None else basis * predicted / own.tpot_s,
            predicted_tpot_s=None if predicted is None else own.tpot_s / predicted,
            identical=runs.identical,
            lossless=runs.lossless,
        )

    def _predicted(self, variant: Variant, verify_ratio: float | None) -> float | None:
        """Speedup against the pair's own target."""
        alike = self._but_k(variant)
        acceptance, cost = self._total("speculative", alike).acceptance_rate, self._cost_ratio(alike)
        if acceptance is None or cost is None or verify_ratio is None or not variant.width:
            return None
        return theory.predicted_speedup(acceptance, variant.width, cost, verify_ratio)

    def _interval(self, variant: Variant) -> Interval | None:
        """Of the speedup: basis of each turn against this variant's part of it."""
        basis = self._of_pair(self.variants[0])
        blocks = []
        for turn, own in self._runs[variant].turns.items():
            targets = [self._runs[each].turns[turn] for each in basis if turn in self._runs[each].turns]
            blocks.append((sum(each[0] for each in targets), sum(each[1] for each in targets), own[2], own[3]))
        return _sure(blocks, lambda sums: sums[0] / sums[1] / (sums[2] / sums[3]))

    @property
    def best(self) -> Point | None:
        """The variant of the least time a token; the first of equals."""
        return min(self.points, key=lambda point: point.tpot_s, default=None)

    def regret(self, point: Point) -> float:
        """The share of time this variant loses against the best: 0.1 is 10% more for the same text."""
        best = self.best
        assert best is not None
        return point.tpot_s / best.tpot_s - 1

    def close(self, point: Point) -> bool | None:
        """Whether the turns do not separate it from the best one, with 95%; None where one turn alone cannot tell."""
        best = self.best
        assert best is not None
        if point.variant == best.variant:
            return False
        ours, bests = self._runs[point.variant].turns, self._runs[best.variant].turns
        blocks = [(*ours[turn][2:], *bests[turn][2:]) for turn in ours.keys() & bests.keys()]
        interval = _sure(blocks, lambda sums: sums[0] / sums[1] / (sums[2] / sums[3]))
        return None if interval is None else interval[0] <= 1

    @property
    def too_close(self) -> list[Point]:
        """The variants that the best one is not told apart from, fastest first."""
        return sorted((point for point in self.points if self.close(point)), key=self.regret)

    @property
    def what_if(self) -> list[theory.WhatIf]:
        """Every smaller window as the runs of the widest alone tell it; [] where more than k is swept."""
        return theory.what_if(*self._widest_traces)

    @property
    def elsewhere(self) -> list[theory.Projection]:
        """This acceptance at the published latencies; nothing before something was judged."""
        return [] if self.acceptance_rate is None else theory.elsewhere(self.acceptance_rate)

    def to_json(self) -> dict[str, Any]:
        """JSON types; seconds."""
        best = self.best
        points = [
            {**asdict(point), "k": point.variant.k, "regret": self.regret(point), "too_close": self.close(point)}
            for point in self.points
        ]
        return {
            "type": "sweep",
            "pair": self.pair,
            "target_tpot_s": self.target_tpot_s,
            "acceptance_rate": self.acceptance_rate,
            "cost_ratio": self.cost_ratio,
            "best": None if best is None else best.label,
            "best_k": None if best is None else best.variant.k,
            "points": points,
            "what_if": [asdict(other) for other in self.what_if],
            "elsewhere": [asdict(other) for other in self.elsewhere],
        }


def _sure(
    blocks: Sequence[tuple[float, float, float, float]], figure: Callable[[Sequence[float]], float]
) -> Interval | None:
    """The interval over turns in which both sides have written more than one token."""
    return ratio_interval([block for block in blocks if all(block)], figure)
