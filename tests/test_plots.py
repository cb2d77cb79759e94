"""The page's Plotly figures."""

from __future__ import annotations

import json

from app.ui import plots


def test_a_figure_is_json_with_no_link_out() -> None:
    plain = plots.to_json(plots.elsewhere_figure(0.5))
    assert [len(line["x"]) for line in plain["data"]] == [16, 16]
    assert plain["config"]["displaylogo"] is False
    assert "http" not in json.dumps(plain)


def test_lines_differ_in_form_not_only_in_colour() -> None:
    symbols = [line.marker.symbol for line in plots.elsewhere_figure(0.5).data]
    assert len(set(symbols)) == len(symbols) == 2
