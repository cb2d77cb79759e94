"""Plotly figures of a sweep and of a projection: pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from app.record.standing import Point, Sweep
from app.record.theory import PUBLISHED, predicted_speedup
from app.ui.palette import LIGHT

# Where there is no style sheet to ask; in the page the script puts the palette of the moment in their place.
COLOURS = LIGHT


def empty_figure(x: str, y: str, **layout: Any) -> go.Figure:
    """An empty figure in the page's style; its colours are put in where it is shown, by `meta`."""
    return go.Figure(
        layout={
            "template": "none",
            "margin": {"l": 48, "r": 12, "t": 34, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 14},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hovermode": "x unified",
            "xaxis": {"title": {"text": x}, "showgrid": False},
            "yaxis": {"title": {"text": y}, "rangemode": "tozero"},
            **layout,
        }
    )


def sweep_figures(sweep: Sweep) -> dict[str, go.Figure]:
    """What a sweep measured, "tpot" and "speedup" by variant; beside what was predicted where only the window
    varies."""
    points = sweep.points
    names: list[Any] = [point.variant.k if sweep.only_k else point.label for point in points]
    title = "window k" if sweep.only_k else ""
    tpot, speedup = empty_figure(title, "ms per token"), empty_figure(title, "speedup")
    if not sweep.only_k:
        for figure in (tpot, speedup):
            figure.layout.xaxis.type = "category"
    alone = sweep.target_tpot_s
    if names and alone is not None:
        _line(tpot, "target alone", names, [1000 * alone] * len(names), "target", "dash", None)
        _line(speedup, "target alone", names, [1.0] * len(names), "target", "dash", None)
    if sweep.only_k:
        _predictions(sweep, tpot, speedup)
    dash = "solid" if sweep.only_k else "none"
    _line(tpot, "measured", names, [1000 * point.tpot_s for point in points], "accepted", dash, "diamond")
    _line(speedup, "measured", names, [point.speedup for point in points], "accepted", dash, "diamond")
    speedup.data[-1].error_y = _reach(points)
    return {"tpot": tpot, "speedup": speedup}


def _predictions(sweep: Sweep, tpot: go.Figure, speedup: go.Figure) -> None:
    predicted = [point for point in sweep.points if point.predicted_speedup is not None]
    ks: list[Any] = [point.variant.k for point in predicted]
    _line(tpot, "formula", ks, [1000 * (point.predicted_tpot_s or 0) for point in predicted], "corrected", "dot", "x")
    _line(speedup, "formula", ks, [point.predicted_speedup or 0 for point in predicted], "corrected", "dot", "x")
    guessed = [other for other in sweep.what_if if other.tpot_s is not None]
    if guessed:
        told = [1000 * (other.tpot_s or 0) for other in guessed]
        ks = [other.k for other in guessed]
        _line(tpot, f"what-if from k = {ks[-1]}", ks, told, "bonus", "dashdot", "square-open")


def _reach(points: Sequence[Point]) -> dict[str, Any]:
    """Error bars: the interval of each speedup, where there is one."""
    intervals = [(point.speedup, point.interval or (point.speedup, point.speedup)) for point in points]
    return {
        "array": [max(0.0, high - speedup) for speedup, (_, high) in intervals],
        "arrayminus": [max(0.0, speedup - low) for speedup, (low, _) in intervals],
        "thickness": 1.5,
    }


def elsewhere_figure(acceptance: float) -> go.Figure:
    """A projection: TPOT by k at the published latencies, for this acceptance (0 to 1)."""
    figure = empty_figure("window k", "ms per token")
    ks = list(range(1, 17))
    for pair, colour, symbol in zip(PUBLISHED, ("accepted", "bonus"), ("diamond", "circle"), strict=True):
        tpot = [pair.target_ms / predicted_speedup(acceptance, k, pair.cost_ratio) for k in ks]
        _line(figure, f"{pair.target} + {pair.draft}", ks, tpot, colour, "dot", symbol)
    return figure


def _line(
    figure: go.Figure, name: str, x: Sequence[Any], y: Sequence[float], colour: str, dash: str, symbol: str | None
) -> None:
    """A line through points of a symbol; without symbol the line alone, and with dash "none" the points alone."""
    figure.add_scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode="markers" if dash == "none" else "lines+markers" if symbol else "lines",
        line={
            "width": 3 if dash == "solid" else 2,
            "dash": "solid" if dash == "none" else dash,
            "color": COLOURS[colour],
        },
        marker={"size": 9, "symbol": symbol, "color": COLOURS[colour]},
        hovertemplate="%{y:.2f}",
        meta={"colour": colour},
    )


def to_json(figure: go.Figure) -> dict[str, Any]:
    """The figure as JSON types, with the settings of the page's plots: no logo, no link to another host."""
    plain: dict[str, Any] = json.loads(figure.to_json())
    return {
        "data": plain["data"],
        "layout": plain["layout"],
        "config": {"displayModeBar": False, "displaylogo": False, "responsive": False},
    }
