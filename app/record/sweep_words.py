"""A sweep in words, as a text table, and as CSV. Stdlib only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from app.record.standing import Point, Sweep


def sentences(measured: Sweep) -> list[str]:
    """Which variant is best and how sure that is, what the others cost, how far the formula was off; [] before a first
    point."""
    best, points = measured.best, measured.points
    if best is None:
        return []
    close = measured.too_close
    told = [_verdict(measured, best, close)]
    if len(points) > 1 and best.interval is None:
        told.append("Each was run once, which says nothing of chance: repeat it before trusting a small difference.")
    if not best.lossless:
        told.append(_lossy(measured, best))
    others = [point for point in points if point.variant != best.variant and point not in close]
    if others:
        losses = [
            f"{100 * measured.regret(point):.0f}% ({point.label})" for point in sorted(others, key=measured.regret)
        ]
        told.append(f"The others cost time for the same text: {_listed(losses)} more than {best.label}.")
    if measured.only_k and (formula := _formula(points)):
        told.append(formula)
    return told


def _verdict(measured: Sweep, best: Point, close: Sequence[Point]) -> str:
    alone = measured.target_tpot_s or 0.0
    figures = f"{1000 * best.tpot_s:.1f} ms a token against {1000 * alone:.1f} ms for the target alone"
    if best.speedup <= 1:
        return (
            f"Nothing pays here: even {best.label} takes {figures}. The draft agrees too rarely for what it costs; "
            "a draft that agrees more often, or a lower temperature, would help."
        )
    if close:
        names = [best.label, *(point.label for point in close)]
        speeds = [f"{point.speedup:.2f}" for point in (best, *close)]
        return (
            f"Too close to call between {_listed(names, 'and')}: {_listed(speeds, 'and')} times as fast as the target "
            "alone; more repeats would tell them apart."
        )
    name = f"{best.label} is" if len(measured.points) == 1 else f"{best.label} is the best of these:"
    sure = "" if best.interval is None else f" (95%: {best.interval[0]:.2f} to {best.interval[1]:.2f})"
    return f"{name} {best.speedup:.2f} times as fast{sure}, {figures}."


def _lossy(measured: Sweep, best: Point) -> str:
    exact = min((point for point in measured.points if point.lossless), key=measured.regret, default=None)
    instead = "" if exact is None else f"; the best lossless one is {exact.label}, {exact.speedup:.2f} times as fast"
    return f"{best.label} is lossy: what it writes is not distributed as the target's text{instead}."


def _formula(points: Sequence[Point]) -> str:
    predicted = [(point.predicted_speedup / point.speedup - 1, point) for point in points if point.predicted_speedup]
    if not predicted:
        return ""
    share, off = max(predicted, key=lambda each: abs(each[0]))
    return (
        f"The formula is off by {100 * abs(share):.0f}% at most ({off.label}, "
        f"{'above' if share > 0 else 'below'} what was "
        "measured): it takes every draft to be kept with the same chance, and counts no time of the host."
    )


def _listed(parts: Sequence[str], word: str = "or") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def standing_of(measured: Sweep, point: Point) -> str:
    """best, too close to call, or what it loses: "+5%"."""
    best = measured.best
    if best is not None and point.variant == best.variant:
        return "best"
    return "too close" if measured.close(point) else f"{measured.regret(point):+.0%}"


def table(measured: Sweep) -> Iterable[str]:
    """The lines of a text table, ratios first."""
    points = measured.points
    width = max([7, *(len(point.label) for point in points)])
    yield (
        f"{'variant':>{width}} {'speedup':>8} {'95%':>13} {'predicted':>10} {'time lost':>10} {'tokens/pass':>12} "
        f"{'v':>6} {'TPOT ms':>8} {'what-if ms':>11} {'same text':>10}"
    )
    guessed = {other.k: other.tpot_s for other in measured.what_if}
    for point in points:
        spread = "–" if point.interval is None else f"{point.interval[0]:.2f} – {point.interval[1]:.2f}"
        yield (
            f"{point.label:>{width}} {point.speedup:>8.2f} {spread:>13} {_or_dash(point.predicted_speedup):>10} "
            f"{standing_of(measured, point):>10} {point.mean_acceptance_length:>12.2f} "
            f"{_or_dash(point.verify_ratio):>6} "
            f"{1000 * point.tpot_s:>8.2f} {_or_dash(guessed.get(point.variant.width), 1000):>11} "
            f"{f'{point.identical} of {point.runs}':>10}"
        )


def _or_dash(value: float | None, times: float = 1) -> str:
    return "–" if value is None else f"{times * value:.2f}"


COLUMNS = (
    "variant", "pair", "k", "acceptor", "drafter", "temperature", "lossless", "runs", "tpot_ms", "target_tpot_ms",
    "speedup", "speedup_low", "speedup_high", "standing", "tokens_per_pass", "acceptance_rate", "verify_ratio",
    "predicted_speedup", "same_text",
)  # fmt: skip


def to_csv(measured: Sweep) -> str:
    """One line a variant, after a line of names; an empty field is a figure that is not known."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    for point in measured.points:
        variant, interval = point.variant, point.interval or (None, None)
        known = (
            *(point.label, variant.pair or measured.pair, variant.k, variant.acceptor, variant.drafter),
            *(f"{variant.temperature:g}", point.lossless, point.runs, 1000 * point.tpot_s, 1000 * point.target_tpot_s),
            *(point.speedup, *interval, standing_of(measured, point), point.mean_acceptance_length),
            *(point.acceptance_rate, point.verify_ratio, point.predicted_speedup, point.identical),
        )
        rows.writerow(known)
    return out.getvalue()
