"""Figures against values worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.record.metrics import Metrics
from app.record.theory import PUBLISHED
from app.ui import plots
from tests.support.traces import trace


def series(arm: str, name: str) -> Any:
    figure = plots.tpot_figure(Metrics(trace()))
    return next(line for line in figure.data if (line.meta or {}).get("arm") == arm and line.meta["series"] == name)


def test_a_round_is_its_seconds_over_its_tokens_at_its_last_token() -> None:
    line = series("speculative", "round")
    assert list(line.x) == [5, 7, 8]
    assert list(line.y) == pytest.approx([16 / 4, 16 / 2, 13])


def test_the_running_mean_is_tpot_so_far() -> None:
    line = series("speculative", "mean")
    assert list(line.x) == [5, 7, 8]
    assert list(line.y) == pytest.approx([16 / 4, 32 / 6, 45 / 7])
    assert line.y[-1] == pytest.approx(1000 * (Metrics(trace()).arms["speculative"].tpot_s or 0))


def test_target_alone_has_a_point_for_each_token() -> None:
    line = series("target", "round")
    assert list(line.x) == [2, 3, 4, 5, 6, 7, 8]
    assert list(line.y) == pytest.approx([10] * 7)


def test_published_medians_are_offered_and_switched_off() -> None:
    lines = [line for line in plots.tpot_figure(Metrics()).data if (line.meta or {}).get("published")]
    assert [line.y[0] for line in lines] == [pair.target_ms for pair in PUBLISHED]
    assert {line.visible for line in lines} == {"legendonly"}


def test_empty_figure_is_json_with_no_link_out() -> None:
    plain = plots.to_json(plots.tpot_figure(Metrics()))
    assert all(not line["x"] for line in plain["data"] if line["meta"].get("arm"))
    assert plain["config"]["displaylogo"] is False
    assert "http" not in json.dumps(plain)


def test_arms_differ_in_form_not_only_in_colour() -> None:
    assert series("target", "mean").line.dash != series("speculative", "mean").line.dash
    assert series("target", "round").marker.symbol != series("speculative", "round").marker.symbol
