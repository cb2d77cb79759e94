"""The pair chooser: loads another of the listed pairs in place of the loaded one, without a restart. One of the
catalogue is described first, and fetched when that is asked for."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.errors import RequestError
from app.ui.desk import Desk
from app.ui.routes import SWITCHES
from app.ui.session import Session

PROGRESS_SECONDS = 0.3  # between two looks at how much has come


@dataclass(frozen=True, slots=True)
class Chooser:
    """The list, the line beside it, and the buttons of a pair that is to be fetched."""

    pairs: gr.Dropdown
    note: gr.HTML
    fetch: gr.Button
    cancel: gr.Button


def build(session: Session) -> Chooser:
    """Hidden where there is nothing to choose."""
    many = len(session.pairs) > 1
    with gr.Row(elem_id="pair-row", visible=many, equal_height=True):
        pairs = gr.Dropdown(
            list(session.pairs),
            value=session.chosen,
            label="Pair",
            filterable=False,
            scale=0,
            min_width=292,
            elem_id="pair",
        )
        note = gr.HTML(_note(f"{session.chosen} is loaded."), apply_default_css=False, elem_id="pair-note")
        fetch = gr.Button("Fetch and load", visible=False, scale=0, min_width=180, elem_id="pair-fetch")
        cancel = gr.Button("Cancel", visible=False, scale=0, min_width=90, elem_id="pair-cancel")
    return Chooser(pairs, note, fetch, cancel)


def wire(
    page: gr.Blocks,
    session: Session,
    desk: Desk,
    chooser: Chooser,
    outputs: Sequence[Any],
    shown: Callable[[], Sequence[Any]],
) -> None:
    """outputs: what else on the page tells of the pair, and `shown`, their updates.

    Every page shows the pair that is loaded, not the one it was built with, nor the one it was opened with.
    """
    desk.switches.tell(session.chosen)
    if len(session.pairs) < 2:
        return
    unchanged = [gr.skip() for _ in outputs]
    under_way: dict[str, threading.Event] = {}  # fetches by the page that asked for them

    def everything(sentence: str, fault: bool = False) -> list[Any]:
        chosen = gr.update(value=session.chosen, interactive=True)
        return [chosen, _note(sentence, fault), *_buttons(), *shown()]

    def follow(name: str) -> list[Any]:
        """For a list that is set to `name`. Where that is the pair, what stands beside the list stays: the person may
        have chosen from it by the time the answer comes."""
        if name == session.chosen:
            return [*(gr.skip() for _ in range(4)), *shown()]
        return everything(f"{session.chosen} is loaded.")

    def load(name: str) -> None:
        session.switch(name)
        desk.switches.tell(session.chosen)  # also where whoever asked has left meanwhile

    async def switch(name: str) -> AsyncIterator[list[Any]]:
        loading = _note(f"Loading {name}; runs wait for it.")
        yield [gr.update(interactive=False), loading, *_buttons(), *unchanged]
        try:
            async with desk.line.turn():
                await desk.line.called(lambda: load(name))
        except Exception as error:
            yield everything(desk.sentence(error), fault=True)
        else:
            yield everything(f"{session.chosen} is loaded.")

    async def choose(name: str) -> AsyncIterator[list[Any]]:
        about = "" if desk.catalogue is None or name == session.chosen else desk.catalogue.about(name)
        if about:
            yield [gr.update(value=name), _note(about), *_buttons(fetch=True), *unchanged, name]
            return
        async for update in switch(name):
            yield [*update, ""]

    async def bring(request: gr.Request, name: str) -> AsyncIterator[list[Any]]:
        """Fetch the pair, telling how much has come, then load it."""
        stop = under_way.setdefault(str(request.session_hash), threading.Event())
        come: list[tuple[int, int, str]] = []
        fetching = asyncio.create_task(asyncio.to_thread(_fetched, desk, name, come, stop))
        fetching.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it any more
        told = ""
        try:
            while not fetching.done():
                if stop.is_set():  # its thread ends when the line says something again
                    yield everything(f"Fetching {name} was stopped; it goes on from there next time.")
                    return
                latest = _progress(name, *(come[-1] if come else (0, 0, "")))
                if latest != told:
                    yield [gr.update(interactive=False), latest, *_buttons(cancel=True), *unchanged]
                told = latest
                await asyncio.wait([fetching], timeout=PROGRESS_SECONDS)
            fetching.result()
        except Exception as error:
            yield everything(desk.sentence(error), fault=True)
            return
        finally:
            stop.set()  # whoever left asks for nothing any more
            under_way.pop(str(request.session_hash), None)
        async for update in switch(name):
            yield update

    def give_up(request: gr.Request) -> None:
        if (stop := under_way.get(str(request.session_hash))) is not None:
            stop.set()

    every = [chooser.pairs, chooser.note, chooser.fetch, chooser.cancel, *outputs]
    changes: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 1, "api_visibility": "private"}
    described = gr.State("")  # the pair whose description stands there; the list may be set to another meanwhile
    chooser.pairs.input(choose, chooser.pairs, [*every, described], trigger_mode="once", **changes)
    chooser.fetch.click(bring, described, every, trigger_mode="once", **changes)
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    chooser.cancel.click(give_up, None, None, **quiet)
    # another page may have loaded another pair: every page is told
    follower = gr.HTML(
        html_template="<span hidden></span>",
        js_on_load=f"window.Playground.followPair(trigger, '{SWITCHES[1:]}')",
        apply_default_css=False,
        elem_id="pair-follower",
    )
    for shows in (follower.tick, page.load):
        shows(follow, chooser.pairs, every, **quiet)


def _fetched(desk: Desk, name: str, come: list[tuple[int, int, str]], stop: threading.Event) -> None:
    """come: its last entry is how much has come. Raises PlaygroundError."""
    if desk.catalogue is None or not desk.catalogue.about(name):
        raise RequestError(f"There is no pair {name!r} to fetch; choose one of the list.")
    desk.catalogue.fetch(name, lambda *told: come.__setitem__(slice(None), [told]), stop)


def _buttons(*, fetch: bool = False, cancel: bool = False) -> list[Any]:
    return [gr.update(visible=fetch), gr.update(visible=cancel)]


def _note(sentence: str, fault: bool = False) -> str:
    role = ' role="alert"' if fault else ' role="status"'
    return f'<p class="pg note{" fault" if fault else ""}"{role}>{html.escape(sentence)}</p>'


def _progress(name: str, come: int, total: int, file: str) -> str:
    """No live region: a screen reader would read every per cent."""
    if not total:
        return _note(f"Asking the Hub for {name}.")
    percent, name, file = 100 * come // total, html.escape(name), html.escape(file)
    size = f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
    bar = f'<progress max="100" value="{percent}" aria-label="Fetching {name}"></progress>'
    return f'<p class="pg note">{bar} Fetching {name}: {percent}% of {size} ({file})</p>'
