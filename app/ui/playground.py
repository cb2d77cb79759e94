"""The Playground tab: the prompt, the knobs, and the run they start.

Everything a run shows goes through one output, the token view, as small updates; a run is stopped by its own id, so
that it can end its trace in good order instead of being cut off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from typing import Any

import gradio as gr

from app.record.trace import Event, Trace
from app.ui import assets, knobs, prompt_count, token_view
from app.ui.desk import Desk
from app.ui.live import Recent, stream
from app.ui.session import Session
from app.ui.stops import Stops
from app.ui.visitors import visitor_of

DEFAULT_PROMPT = "Explain what a transformer language model is, in three sentences."


def build(session: Session | None, desk: Desk, replay: Trace | None) -> dict[str, Any]:
    """The tab; returns its prompt and knobs by name."""
    if session is None:
        gr.HTML(
            '<p class="pg no-model">No model is loaded: this page replays recorded runs. '
            "Start it without --replay to run your own.</p>",
            apply_default_css=False,
        )
        token_view.build(replay, Recent(), desk, alone=True)
        return {}
    gr.HTML(
        html_template='<div class="pg-mount"></div>',
        js_on_load="window.Playground.mountChat(element.querySelector('.pg-mount'))",
        apply_default_css=False,
        elem_id="chat",
    )
    with gr.Row(elem_id="controls", equal_height=True):
        prompt = gr.Textbox(
            DEFAULT_PROMPT,
            label="Prompt (Shift+Enter runs it)",
            lines=2,
            max_lines=6,
            scale=1,
            min_width=300,
            elem_id="prompt",
        )
        few = knobs.build_few(session)
        with gr.Column(scale=0, min_width=150, elem_id="run-column"):
            run = gr.Button("Run", variant="primary", min_width=80, elem_id="run")
            with gr.Row(elem_id="run-row"):
                stop = gr.Button("Stop", variant="secondary", min_width=60, interactive=False, elem_id="stop")
                more = gr.Button("More", variant="secondary", min_width=60, elem_id="more-button")
    controls = knobs.build_more(session, *few, desk.limits.max_tokens)
    more.click(None, js="() => window.Playground.toggleMore()", queue=False, api_visibility="private")
    _address(session, prompt, controls)
    prompt_count.build(session, desk)
    run_id, turns = gr.Textbox(visible=False), gr.Textbox(visible=False)
    recent = Recent()
    view = token_view.build(replay, recent, desk)
    stops = Stops()

    async def run_prompt(request: gr.Request, prompt: str, *values: Any) -> AsyncIterator[list[str]]:
        *knob_values, turns, id_ = values
        run_id = str(id_)

        def start() -> Generator[Event, None, None]:
            asked = knobs.request_of(prompt, *knob_values, messages=knobs.messages_in(turns))
            return session.run(desk.limits.checked(asked), stopped=stopping.is_set)

        with stops.run(str(request.session_hash), run_id) as stopping, recent.run(run_id) as updates:
            async with aclosing(stream(updates, start, desk, visitor_of(request), stopping)) as values_:
                async for value in values_:
                    yield value

    async def stop_run(request: gr.Request, id_: str) -> None:
        stops.stop(str(request.session_hash), str(id_))

    started = gr.on(
        [run.click, prompt.submit],
        run_prompt,
        [prompt, *controls, turns, run_id],
        view,
        js="(...knobs) => window.Playground.begin(knobs)",
        show_progress="hidden",
        concurrency_limit=None,
        trigger_mode="once",
        api_visibility="private",
    )
    started.then(None, js="() => window.Playground.settle()")
    stop.click(
        stop_run,
        run_id,
        js="() => [window.Playground.store.run.id]",
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return {"prompt": prompt, **dict(zip(knobs.NAMES, controls, strict=True))}


def _address(session: Session, prompt: gr.Textbox, controls: list[Any]) -> None:
    """The knobs in the page's address: set from it, from a card or from a run, and written to it as they change."""
    settings = assets.json_for_html(knobs.described(session, DEFAULT_PROMPT, controls))
    wanted = gr.HTML(
        value={},
        html_template="<span hidden></span>",
        js_on_load=f"window.Playground.mountKnobs(props, trigger, {settings})",
        apply_default_css=False,
        elem_id="wanted",
    )
    every = [prompt, *controls]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    wanted.apply(None, [wanted, *every], every, js="(...values) => window.Playground.applied(...values)", **quiet)
    gr.on(
        [each.change for each in every],
        None,
        every,
        None,
        js="(...values) => window.Playground.remember(...values)",
        **quiet,
    )
