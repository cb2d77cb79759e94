"""The pair chooser: loads another of the listed pairs in place of the loaded one, without a restart."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr

from app.ui.desk import Desk
from app.ui.routes import SWITCHES
from app.ui.session import Session


def build(session: Session) -> tuple[gr.Dropdown, gr.HTML]:
    """The list and the line under it; hidden where there is nothing to choose."""
    many = len(session.pairs) > 1
    with gr.Row(elem_id="pair-row", visible=many, equal_height=True):
        chooser = gr.Dropdown(
            list(session.pairs),
            value=session.chosen,
            label="Pair",
            filterable=False,
            scale=0,
            min_width=292,
            elem_id="pair",
        )
        note = gr.HTML(_note("Another pair takes the place of this one."), apply_default_css=False, elem_id="pair-note")
    return chooser, note


def wire(
    page: gr.Blocks,
    session: Session,
    desk: Desk,
    chooser: gr.Dropdown,
    note: gr.HTML,
    outputs: Sequence[Any],
    shown: Callable[[], Sequence[Any]],
) -> None:
    """outputs: what else on the page tells of the pair, and `shown`, their updates.

    Every page shows the pair that is loaded, not the one it was built with, nor the one it was opened with.
    """
    desk.switches.tell(session.chosen)
    if len(session.pairs) < 2:
        return

    def everything(sentence: str, fault: bool = False) -> list[Any]:
        return [gr.update(value=session.chosen, interactive=True), _note(sentence, fault), *shown()]

    def load(name: str) -> None:
        session.switch(name)
        desk.switches.tell(session.chosen)  # also where whoever asked has left meanwhile

    async def switch(name: str) -> AsyncIterator[list[Any]]:
        unchanged = [gr.skip() for _ in outputs]
        yield [gr.update(interactive=False), _note(f"Loading {name}; runs wait for it."), *unchanged]
        try:
            async with desk.line.turn():
                await desk.line.called(lambda: load(name))
        except Exception as error:
            yield everything(desk.sentence(error), fault=True)
        else:
            yield everything(f"{session.chosen} is loaded.")

    chooser.input(
        switch,
        chooser,
        [chooser, note, *outputs],
        show_progress="hidden",
        concurrency_limit=1,
        trigger_mode="once",
        api_visibility="private",
    )
    # another page may have loaded another pair: every page is told
    follower = gr.HTML(
        html_template="<span hidden></span>",
        js_on_load=f"window.Playground.followPair(trigger, '{SWITCHES[1:]}')",
        apply_default_css=False,
        elem_id="pair-follower",
    )
    follower.tick(
        lambda: everything(f"{session.chosen} is loaded."),
        None,
        [chooser, note, *outputs],
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    page.load(
        lambda: everything(f"{session.chosen} is loaded."),
        None,
        [chooser, note, *outputs],
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )


def _note(sentence: str, fault: bool = False) -> str:
    role = ' role="alert"' if fault else ' role="status"'
    return f'<p class="pg note{" fault" if fault else ""}"{role}>{html.escape(sentence)}</p>'
