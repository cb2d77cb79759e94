"""A sweep of the window, what one run tells of smaller windows, and a projection to Trainium. Pure: escaped HTML and
figures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from app.errors import TraceError
from app.record import theory
from app.record.metrics import Metrics
from app.record.standing import Point, Sweep
from app.record.sweep import Step
from app.record.sweep_words import sentences, standing_of, to_csv
from app.record.trace import Trace
from app.ui import plots


def progress_html(step: Step, stopped: bool = False) -> str:
    """A bar, and what is being measured."""
    if stopped:
        words = f"Stopped after {step.done} of {step.total} runs."
    elif step.done == step.total:
        words = f"{step.total} runs of both arms."
    else:
        words = f"run {step.done + 1} of {step.total}, {step.doing}"
    return _progress(words, step.share, busy=not stopped and step.done < step.total)


def waiting_html(ahead: int, seconds: float | None = None) -> str:
    """Others are at the device. seconds: how long that takes, about; None where it is not known."""
    about = "" if seconds is None else f", about {max(1, round(seconds))} s"
    return _progress(f"Waiting for the device: {ahead} ahead of you{about}.", 0.0, busy=True)


def _progress(words: str, share: float, busy: bool) -> str:
    percent = round(100 * share)
    return (
        f'<div class="pg tune-progress"><div class="track" role="progressbar" aria-label="Sweep" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f'<p class="fine"{"" if busy else " role=status"}>{html.escape(words)}</p></div>'
    )


def error_html(message: str) -> str:
    """A sentence in the progress bar's place."""
    return f'<div class="pg tune"><p class="verdict no" role="alert">{html.escape(message)}</p></div>'


def sweep_html(sweep: Sweep, over: bool = True) -> str:
    """The verdict in words and the table. over: no run is still to come."""
    told = sentences(sweep)
    if not told:
        return ""
    best = sweep.best
    assert best is not None
    pays = "yes" if best.speedup > 1 else "no"
    so_far = "" if over else '<b class="label">so far</b>'
    facts = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in told[1:])
    name = "too close" if sweep.too_close and best.speedup > 1 else best.label
    what_if = (
        "What-if: the same text walked again with the smaller window, from the runs of the widest one alone. "
        "Formula: (1 - α^k) / ((1 - α) (v + (k - 1) c))."
        if sweep.only_k
        else ""
    )
    return (
        f'<section class="pg tune"><p class="verdict {pays}"><span class="figure">{html.escape(name)}{so_far}</span> '
        f"{html.escape(told[0])}</p><ul>{facts}</ul>{_sweep_table(sweep)}"
        '<p class="fine">All against one basis, the target alone over every run '
        f"({1000 * (sweep.target_tpot_s or 0):.2f} "
        "ms a token); small: 95% over the repeats and prompts. Over the whole sweep: acceptance α = "
        f"{sweep.acceptance_rate or 0:.3f}, cost ratio c = {sweep.cost_ratio or 0:.3f}. {what_if}</p></section>"
    )


_HEADS = (
    "speedup",
    "formula",
    "time lost",
    "TPOT, ms",
    "what-if, ms",
    "tokens a pass",
    "verify ratio v",
    "same text",
    "",
)


def _sweep_table(sweep: Sweep) -> str:
    guessed = {other.k: other.tpot_s for other in sweep.what_if}
    rows = [_sweep_row(sweep, point, guessed.get(point.variant.width)) for point in sweep.points]
    return _table(("k" if sweep.only_k else "", *_HEADS), rows, "Windows" if sweep.only_k else "Variants")


def _sweep_row(sweep: Sweep, point: Point, what_if: float | None) -> str:
    standing = standing_of(sweep, point)
    spread = f"<small>{point.interval[0]:.2f} to {point.interval[1]:.2f}</small>" if point.interval else ""
    lossy = "" if point.lossless else '<small class="lossy">lossy</small>'
    cells = (
        f"{point.speedup:.2f}×{spread}",
        "–" if point.predicted_speedup is None else f"{point.predicted_speedup:.2f}×",
        standing,
        f"{1000 * point.tpot_s:.2f}",
        "–" if what_if is None else f"{1000 * what_if:.2f}",
        f"{point.mean_acceptance_length:.2f}",
        "–" if point.verify_ratio is None else f"{point.verify_ratio:.2f}",
        f"{point.identical} of {point.runs}",
        _use(point),
    )
    mark = ' class="best"' if standing == "best" else ' class="close"' if standing == "too close" else ""
    name = str(point.variant.k) if sweep.only_k else point.label
    return (
        f'<tr{mark}><th scope="row">{html.escape(name)}{lossy}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    )


def _use(point: Point) -> str:
    """A button that sets the Playground's knobs; the page's script acts on it (`assets/web/instruments.js`)."""
    variant = point.variant
    settings = {
        "k": variant.k,
        "acceptor": variant.acceptor,
        "drafter": variant.drafter,
        "temperature": variant.temperature,
        "pair": variant.pair,
    }
    written = html.escape(json.dumps(settings), quote=True)
    return f'<button type="button" class="use" data-use="{written}">use this</button>'


def _table(heads: Sequence[str], rows: Sequence[str], label: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def elsewhere_html(acceptance: float) -> str:
    """The same agreement at the published latencies, labelled for what it is."""
    rows = [
        f'<tr><th scope="row">{other.pair.target} + {other.pair.draft}</th><td>{other.pair.target_ms:g}</td>'
        f"<td>{other.pair.draft_ms:g}</td><td>{other.pair.cost_ratio:.2f}</td><td>{other.k}</td>"
        f"<td>{other.tpot_ms:.1f}</td><td>{other.speedup:.2f}×</td></tr>"
        for other in theory.elsewhere(acceptance)
    ]
    heads = ("pair", "target alone, ms", "draft, ms", "c", "best k", "TPOT, ms", "speedup")
    return (
        '<section class="pg tune"><h2>Elsewhere <b class="label">a projection, not a measurement</b></h2>'
        f"<p>If such a pair agreed as often as this one just did (α = {acceptance:.3f}), at the median latencies AWS "
        "published for Trainium, and if verifying a window cost what one token costs (v = 1):</p>"
        f"{_table(heads, rows, 'Projection')}</section>"
    )


def what_if_html(events: Trace) -> str:
    """What one recorded run tells of smaller windows. Raises TraceError where it has no speculative arm."""
    others = theory.what_if(events)
    metrics = Metrics(events)
    arm = metrics.arms.get("speculative")
    if not others or arm is None:
        raise TraceError("This run has no speculative arm that drafted; run both arms in the Playground first.")
    timed = [other for other in others if other.tpot_s is not None]
    best = min(timed, key=lambda other: other.tpot_s or 0, default=None)
    alone = metrics.arms["target"].tpot_s if "target" in metrics.arms else None
    rows = []
    for other in others:
        tpot = "–" if other.tpot_s is None else f"{1000 * other.tpot_s:.2f}"
        speedup = "–" if other.tpot_s is None or alone is None else f"{alone / other.tpot_s:.2f}×"
        mark = ' class="best"' if best is not None and other.k == best.k else ""
        rows.append(
            f"<tr{mark}><th "
            f'scope="row">{other.k}</th><td>{other.expected_length:.2f}</td><td>{tpot}</td><td>{speedup}</td></tr>'
        )
    measured = "" if arm.tpot_s is None else f", measured {1000 * arm.tpot_s:.2f} ms a token at k = {arm.window}"
    words = (
        "The run has no target arm, so only lengths are known."
        if best is None
        else f"From this run alone (τ = {arm.mean_acceptance_length or 0:.2f}{measured}), k = {best.k} would have been "
        f"{'better' if best.k < arm.window else 'right'}: {1000 * (best.tpot_s or 0):.2f} ms a token."
    )
    heads = ("k", "tokens a pass", "TPOT, ms", "speedup")
    return f'<section class="pg tune"><p>{html.escape(words)}</p>{_table(heads, rows, "What-if")}</section>'


def figures(sweep: Sweep) -> list[dict[str, Any]]:
    """The value of the tab's plots: title, note and figure of each; with the first, the whole table as CSV."""
    if not sweep.points:
        return []
    drawn, by = plots.sweep_figures(sweep), " by k" if sweep.only_k else ""
    shown = [
        (f"Time per output token{by}", "Lower is better.", drawn["tpot"]),
        (f"Speedup{by}", "Higher is better; bars are 95% over the repeats and prompts.", drawn["speedup"]),
        (
            "Elsewhere: projected time per output token at the published Trainium latencies",
            "A projection from the acceptance measured here, not a measurement.",
            plots.elsewhere_figure(sweep.acceptance_rate or 0.0),
        ),
    ]
    table = to_csv(sweep)
    return [
        {"title": title, "note": note, "figure": plots.to_json(figure), **({} if place else {"table": table})}
        for place, (title, note, figure) in enumerate(shown)
    ]
