"""The Playground tab: the prompt, the knobs, and the run they start.

Everything a run shows goes through one output, the token view, as small updates; a run is stopped by its own id, so that it
can end its trace in good order instead of being cut off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from app.record.trace import Trace
from app.ui import knobs, token_view
from app.ui.live import Line, Recent, stream
from app.ui.session import Session

DEFAULT_PROMPT = "Explain what a transformer language model is, in three sentences."


def build(
    session: Session | None, line: Line, examples: Sequence[dict[str, str]], replay: Trace | None
) -> gr.Radio | None:
    """The tab; returns the drafter's knob, whose choices are the pair's."""
    if session is None:
        gr.HTML(
            '<p class="pg no-model">No model is loaded: this page replays recorded runs. '
            "Start it without --replay to run your own.</p>",
            apply_default_css=False,
        )
        token_view.build(replay, Recent(), alone=True)
        return None
    with gr.Row(elem_id="bench", equal_height=False):
        with gr.Column(scale=0, min_width=292, elem_id="knobs"):
            controls = knobs.build(session)
        with gr.Column(scale=1, min_width=320, elem_id="stage"):
            prompt, run, stop = _prompt_row(examples)
            run_id = gr.Textbox(visible=False)
            recent = Recent()
            view = token_view.build(replay, recent)
    stops: dict[str, threading.Event] = {}

    def run_prompt(prompt: str, *values: Any) -> Iterator[list[str]]:
        *knob_values, id_ = values
        stopped = stops[id_] = threading.Event()
        try:
            request = knobs.request_of(prompt, *knob_values)
            with recent.run(id_) as updates:
                yield from stream(updates, lambda: session.run(request), line, stopped)
        finally:
            del stops[id_]

    def stop_run(id_: str) -> None:
        if id_ in stops:
            stops[id_].set()

    started = gr.on(
        [run.click, prompt.submit],
        run_prompt,
        [prompt, *controls, run_id],
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
    drafter: gr.Radio = next(knob for knob in controls if knob.elem_id == "drafter")
    return drafter


def _prompt_row(examples: Sequence[dict[str, str]]) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    with gr.Row(elem_id="prompt-row", equal_height=True):
        prompt = gr.Textbox(
            DEFAULT_PROMPT, label="Prompt", lines=2, max_lines=8, scale=1, min_width=240, elem_id="prompt"
        )
        with gr.Column(scale=0, min_width=260, elem_id="run-column"):
            with gr.Row(elem_id="run-row"):
                run = gr.Button("Run", variant="primary", min_width=80, elem_id="run")
                stop = gr.Button("Stop", variant="secondary", min_width=80, elem_id="stop")
            if examples:
                choices = [(f"{each['category']}: {each['prompt']}", each["prompt"]) for each in examples]
                example = gr.Dropdown(
                    [("or choose an example", ""), *choices],
                    value="",
                    label="Examples",
                    container=False,
                    elem_id="examples",
                )
                example.input(None, [example, prompt], prompt, js="(chosen, prompt) => chosen || prompt")
    return prompt, run, stop
