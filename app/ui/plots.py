"""Plotly figures of a trace: pure functions. The page's own script gives the live plot its points, by `meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from app.record.metrics import ArmMetrics, Metrics
from app.record.standing import Point, Sweep
from app.record.theory import PUBLISHED, predicted_speedup
from app.record.trace import ARMS, Arm
from app.ui.palette import LIGHT

NAMES: dict[Arm, str] = {"target": "target only", "speculative": "speculative"}
# Where there is no style sheet to ask; in the page the script puts the palette of the moment in their place.
COLOURS = LIGHT
_COLOUR_OF: dict[Arm, str] = {"target": "target", "speculative": "accepted"}


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


def tpot_figure(metrics: Metrics) -> go.Figure:
    """Milliseconds per token over the tokens of both arms: each round, and the running TPOT.

    A round of n tokens in s seconds is a point of s / n at its last token. The published medians are offered in the
    legend, switched off.
    """
    axis = {"title": {"text": "tokens"}, "showgrid": False, "rangemode": "tozero"}
    figure = empty_figure("tokens", "ms per token", xaxis=axis)
    longest = 2
    for arm in ARMS:
        tokens, rounds, mean = _series(metrics.arms.get(arm))
        longest = max([longest, *tokens])
        colour = _COLOUR_OF[arm]
        shared = {"x": tokens, "hovertemplate": "%{y:.1f} ms"}
        figure.add_scatter(
            **shared,
            y=rounds,
            name=f"{NAMES[arm]}, each round",
            mode="markers",
            marker={"size": 5, "opacity": 0.45, "symbol": _symbol(arm), "color": COLOURS[colour]},
            meta={"arm": arm, "series": "round", "colour": colour},
        )
        figure.add_scatter(
            **shared,
            y=mean,
            name=f"{NAMES[arm]}, TPOT",
            mode="lines",
            line={"width": 3.5, "dash": "dash" if arm == "target" else "solid", "color": COLOURS[colour]},
            meta={"arm": arm, "series": "mean", "colour": colour},
        )
    for pair in PUBLISHED:
        figure.add_scatter(
            x=[1, longest],
            y=[pair.target_ms, pair.target_ms],
            name=f"{pair.target} alone on Trainium, {pair.target_ms:g} ms",
            mode="lines",
            line={"width": 1.5, "dash": "dot", "color": COLOURS["muted"]},
            visible="legendonly",
            hoverinfo="skip",
            meta={"published": True, "colour": "muted"},
        )
    return figure


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


def _symbol(arm: Arm) -> str:
    return "circle-open" if arm == "target" else "diamond"


def _series(arm: ArmMetrics | None) -> tuple[list[int], list[float], list[float]]:
    """After each round but the prefill: tokens so far, ms per token of the round, TPOT so far in ms."""
    tokens: list[int] = []
    rounds: list[float] = []
    mean: list[float] = []
    if arm is None or not arm.arrivals:
        return tokens, rounds, mean
    first = since = arm.arrivals[0]
    count = 1
    for index, clock in enumerate(arm.arrivals[1:], start=2):
        # The tokens of a round share a moment: the last of them closes it.
        if index < arm.tokens and arm.arrivals[index] == clock:
            continue
        tokens.append(index)
        rounds.append(1000 * (clock - since) / (index - count))
        mean.append(1000 * (clock - first) / (index - 1))
        since, count = clock, index
    return tokens, rounds, mean
