"""Plotly figures of a trace: pure functions. The page's own script gives the live plot its points, by `meta`."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from app.metrics import ArmMetrics, Metrics
from app.theory import PUBLISHED
from app.trace import ARMS, Arm

NAMES: dict[Arm, str] = {"target": "target only", "speculative": "speculative"}
# Where there is no style sheet to ask; in the page the script puts the palette of the moment in their place.
COLOURS: dict[str, str] = {"target": "#66717c", "accepted": "#00785a", "muted": "#8b949c"}
_COLOUR_OF: dict[Arm, str] = {"target": "target", "speculative": "accepted"}


def tpot_figure(metrics: Metrics) -> go.Figure:
    """Milliseconds per token over the tokens of both arms: each round, and the running TPOT.

    A round of n tokens in s seconds is a point of s / n at its last token. The published medians are offered in the
    legend, switched off.
    """
    figure = go.Figure(
        layout={
            "template": "none",
            "margin": {"l": 48, "r": 12, "t": 34, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 14},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hovermode": "x unified",
            "xaxis": {"title": {"text": "tokens"}, "showgrid": False, "rangemode": "tozero"},
            "yaxis": {"title": {"text": "ms per token"}, "rangemode": "tozero"},
        }
    )
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
