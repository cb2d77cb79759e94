"""How long the prompt is, said while it is written: counted by the engine as it would be fed, while no run is on."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.ui import knobs
from app.ui.boundary import Boundary
from app.ui.desk import Desk
from app.ui.session import Session


def build(session: Session, desk: Desk) -> gr.HTML:
    """The component that the page's script asks; it shows nothing itself."""
    boundary = Boundary(desk)

    @boundary.answer
    def count(values: Any) -> dict[str, Any]:
        """values: of the prompt and all knobs, in their order, and the turns before the prompt. An engine at work comes
        first: then no tokens."""
        if desk.line.running:
            return {"tokens": None}
        *known, turns = values
        return {"tokens": session.count(knobs.request_of(*known, messages=knobs.messages_in(turns)))}

    return gr.HTML(
        html_template="<span hidden></span>",
        js_on_load="window.Playground.mountPromptCount(server.count)",
        apply_default_css=False,
        server_functions=[count],
        elem_id="prompt-count",
    )
