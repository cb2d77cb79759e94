"""The component that shows a run: headline, panes, race and plot, drawn by the scripts in assets/web."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import gradio as gr

from app.record.definitions import DEFINITIONS
from app.record.theory import PUBLISHED
from app.record.trace import Trace, read_text
from app.ui import assets, recordings
from app.ui.boundary import Boundary
from app.ui.desk import Desk
from app.ui.export import frame
from app.ui.instruments import judged
from app.ui.live import Recent
from app.ui.packed import unpacked
from app.ui.render import items


def build(replay: Trace | None, recent: Recent, desk: Desk, alone: bool = False) -> gr.HTML:
    """The one custom component. Its value is `live.Updates`; traces it opens itself go by its server functions.

    recent: the runs whose updates a browser may ask for. alone: there is no model to run.
    """

    boundary = Boundary(desk)

    @boundary.answer
    def open_trace(text: Any) -> dict[str, Any]:
        return {"items": items(read_text(unpacked(text)))}

    @boundary.answer
    def recording(name: Any) -> dict[str, Any]:
        return {"items": items(recordings.recording(name))}

    @boundary.answer
    def preloaded(_: Any) -> dict[str, Any]:
        return {"items": items(replay or [])}

    @boundary.answer
    def missed(asked: Any) -> dict[str, Any]:
        return {"slots": recent.since(asked.get("run"), asked.get("seq"))}

    @boundary.answer
    def page_of(first_line: Any) -> dict[str, Any]:
        before, after = frame(read_text(first_line))
        return {"before": before, "after": after}

    @boundary.answer
    def judge(text: Any) -> dict[str, Any]:
        return judged(unpacked(text))

    settings = {
        "definitions": DEFINITIONS,
        "published": sorted(({"name": pair.target, "ms": pair.target_ms} for pair in PUBLISHED), key=itemgetter("ms")),
        "recordings": recordings.recordings(),
        "preloaded": replay is not None,
        "alone": alone,
        "cards": assets.cards(),
    }
    return gr.HTML(
        value=[],
        html_template='<div class="pg-mount"></div>',
        # Not as props: at every update gradio writes all of them as JSON, several times, to see what has changed.
        js_on_load=f"""window.Playground.mount(
            element.querySelector('.pg-mount'), {assets.json_for_html(settings)}, props, watch, server)""",
        apply_default_css=False,
        server_functions=[open_trace, recording, preloaded, missed, page_of, judge],
        elem_id="token-view",
    )
