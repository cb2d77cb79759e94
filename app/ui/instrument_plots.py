"""Pictures of one run, and of several side by side: pure functions from a record to Plotly figures."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from app.record.along import along_answer
from app.record.calibration import Bin, calibrate, calibration_error
from app.record.comparison import Comparison
from app.record.histogram import kept_per_round, nothing_kept
from app.record.trace import Trace
from app.ui.plots import COLOURS, empty_figure, to_json

DASHES = ("solid", "dash", "dot", "dashdot")
TINTS = ("accepted", "bonus", "corrected", "target")


def pictures(trace: Trace) -> list[dict[str, Any]]:
    """Title, note and figure of each picture that the run has something for."""
    drawn = []
    if bins := calibrate(trace):
        error = calibration_error(bins) or 0.0
        note = f"On the diagonal it is as sure as it is right; off by {100 * error:.0f}% on average. Bars: 95%."
        drawn.append(("Is the draft as sure as it is right?", note, calibration_figure(bins)))
    if counts := kept_per_round(trace):
        empty = len(nothing_kept(trace))
        note = f"{empty} of {sum(counts)} rounds that drafted kept nothing."
        drawn.append(("Drafts kept a round", note, histogram_figure(counts)))
    places = along_answer(trace)
    if any(place.acceptance is not None for place in places):
        known = any(place.entropy is not None for place in places)
        note = "Acceptance over the last 16 judged drafts. " + (
            "Entropy of the target and divergence of the draft from it, before the warp, in nats."
            if known
            else "This trace was recorded before entropy and divergence were."
        )
        drawn.append(("Along the answer", note, along_figure(trace)))
    return [{"title": title, "note": note, "figure": to_json(figure)} for title, note, figure in drawn]


def calibration_figure(bins: list[Bin]) -> go.Figure:
    """Acceptance by confidence, with its interval, beside the diagonal."""
    figure = empty_figure("how sure the draft was", "share kept", hovermode="closest")
    figure.layout.xaxis.range = figure.layout.yaxis.range = [0, 1.02]
    _trace(figure, "as sure as right", [0, 1], [0, 1], "muted", "lines", "dot")
    _trace(figure, "kept", [b.confidence for b in bins], [b.acceptance for b in bins], "accepted", "lines+markers")
    figure.data[-1].text = [f"{b.accepted} of {b.judged}" for b in bins]
    figure.data[-1].error_y = {
        "array": [b.interval[1] - b.acceptance for b in bins],
        "arrayminus": [b.acceptance - b.interval[0] for b in bins],
    }
    return figure


def histogram_figure(counts: list[int]) -> go.Figure:
    figure = empty_figure("drafts kept", "rounds", hovermode="closest")
    figure.add_bar(x=list(range(len(counts))), y=counts, name="rounds", marker={"color": COLOURS["accepted"]})
    figure.data[-1].meta = {"colour": "accepted"}
    return figure


def along_figure(trace: Trace) -> go.Figure:
    """Acceptance (left), entropy and divergence (right) over the tokens of the speculative arm."""
    places = along_answer(trace)
    right = {
        "title": {"text": "nats"},
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "rangemode": "tozero",
        "automargin": True,  # else its numbers are cut off
    }
    figure = empty_figure("token", "share kept", yaxis2=right)
    tokens = [place.index + 1 for place in places]
    _trace(figure, "acceptance", tokens, [place.acceptance for place in places], "accepted", "lines")
    for name, values, tint, dash in (
        ("entropy of the target", [place.entropy for place in places], "target", "dash"),
        ("divergence of the draft", [place.divergence for place in places], "corrected", "dot"),
    ):
        if any(value is not None for value in values):
            _trace(figure, name, tokens, values, tint, "lines", dash)
            figure.data[-1].yaxis = "y2"
    return figure


def compared(comparison: Comparison) -> list[dict[str, Any]]:
    """TPOT as the texts grow, and acceptance by place, of every run in one picture each."""
    tpot = empty_figure("tokens", "ms per token")
    places = empty_figure("place in the window", "share kept")
    for i, card in enumerate(comparison.cards):
        style = (TINTS[i % len(TINTS)], "lines+markers", DASHES[i % len(DASHES)])
        name = f"run {i + 1}"
        points = card.tpot
        _trace(tpot, name, [each.tokens for each in points], [1000 * each.tpot_s for each in points], *style)
        kept = list(card.acceptance_by_position)
        _trace(places, name, list(range(1, len(kept) + 1)), kept, *style)
    return [
        {"title": "Time per output token", "note": "Of the speculative arm; lower is better.", "figure": to_json(tpot)},
        {"title": "Acceptance by place", "note": "Drafts kept there, of those drafted.", "figure": to_json(places)},
    ]


def _trace(figure: go.Figure, name: str, x: Any, y: Any, tint: str, mode: str, dash: str = "solid") -> None:
    figure.add_scatter(
        x=x,
        y=y,
        name=name,
        mode=mode,
        line={"width": 2.5, "dash": dash, "color": COLOURS[tint]},
        marker={"size": 7, "color": COLOURS[tint]},
        meta={"colour": tint},
    )
