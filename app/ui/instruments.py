"""The Instruments tab: pictures and advice of the run shown, the runs of this browser, and several side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr

from app.errors import RequestError
from app.record.advice import advise
from app.record.comparison import Card, card_from_json, card_of, compare
from app.record.trace import read_text
from app.ui import assets
from app.ui.boundary import Boundary
from app.ui.desk import Desk
from app.ui.instrument_plots import compared, pictures

MOST = 4
"""Runs side by side: more are not told apart in one picture."""


def build(desk: Desk) -> gr.HTML:
    """The tab's one component; runs are judged by a server function of the token view, which is there from the
    beginning."""
    boundary = Boundary(desk)

    @boundary.answer
    def side_by_side(cards: Any) -> dict[str, Any]:
        return beside(cards)

    return gr.HTML(
        html_template='<div class="pg pg-instruments"></div>',
        js_on_load="window.Playground.mountInstruments(element.querySelector('.pg-instruments'), props, server)",
        apply_default_css=False,
        server_functions=[side_by_side],
        elem_id="instruments-view",
        plotly=assets.plotly_address(),
    )


def judged(text: str) -> dict[str, Any]:
    """Of a trace, the lines of its file: advice, pictures, and the card it is compared by. Raises PlaygroundError."""
    trace = read_text(text)
    return {
        "advice": [asdict(each) for each in advise(trace)],
        "pictures": pictures(trace),
        "card": asdict(card_of(trace)),
    }


def beside(cards: Any) -> dict[str, Any]:
    """Cards as the browser keeps them, compared with the first. Raises PlaygroundError."""
    if not isinstance(cards, list) or len(cards) > MOST:
        raise RequestError(f"At most {MOST} runs can be compared at once; take some pins out.")
    comparison = compare([_card(each) for each in cards])
    shown = comparison.to_json()
    del shown["cards"]
    return {**shown, "pictures": compared(comparison)}


def _card(data: Any) -> Card:
    return card_from_json(data)
