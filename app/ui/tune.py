"""The Tune k tab: the knobs of a sweep, its course, and the judgement of a single run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.errors import RequestError
from app.record.limits import AUTO, DEFAULT_KS, MAX_K, MIN_K, parse_k
from app.record.sweep import REPEATS, Step, sweep
from app.record.trace import Event, Request, Sampling, read_text
from app.record.variants import variants
from app.ui.boundary import Boundary
from app.ui.desk import Desk, Visitor
from app.ui.session import Session
from app.ui.stops import Stops
from app.ui.sweep_view import (
    elsewhere_html,
    error_html,
    figures,
    progress_html,
    sweep_html,
    waiting_html,
    what_if_html,
)
from app.ui.visitors import visitor_of

SECONDS_BETWEEN_UPDATES = 0.2
OWN, EACH, ALL = "own", "each", "all"
REST = ("top_p", "top_k", "seed", "acceptor", "drafter", "system", "chat_template")
"""What a sweep takes from the knobs of the Playground as they are."""
_SWEEP = "sweep"
"""The one run of a visitor's that has no id of its own."""

Shown = tuple[Any, Any, Any, Any]
"""Progress, words, figures, projection."""


def build_sweep(
    session: Session,
    desk: Desk,
    tab: gr.Tab,
    playground: Mapping[str, Any],
    examples: Sequence[dict[str, str]],
    plotly: str,
) -> None:
    """Put the sweep's components into the Blocks context it is called in.

    playground: its prompt and knobs by name, whose settings hold here as well. plotly: the address of Plotly's script.
    """
    known = range(MIN_K, min(MAX_K, session.max_k) + 1) if session.windows is None else session.windows
    ks_known = [k for k in known if k >= MIN_K]
    which = [("these", OWN)]
    if examples:
        categories = {each["category"] for each in examples}
        which += [(f"an example of each kind ({len(categories)})", EACH), (f"all examples ({len(examples)})", ALL)]
    with gr.Row(elem_id="tune", equal_height=False):
        with gr.Column(scale=0, min_width=292, elem_id="tune-knobs"):
            source = gr.Radio(which, value=OWN, label="Prompts", elem_id="tune-source", visible=len(which) > 1)
            prompts = gr.Textbox(
                playground["prompt"].value, label="Prompts, one a line", lines=3, max_lines=8, elem_id="tune-prompts"
            )
            source.change(
                lambda chosen: gr.update(visible=chosen == OWN),
                source,
                prompts,
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )
            ks = gr.CheckboxGroup(
                [*map(str, ks_known), *([AUTO] if session.draft is not None else [])],
                value=[str(k) for k in ks_known if k in DEFAULT_KS or session.windows is not None],
                label="Windows k",
                elem_id="tune-ks",
            )
            others = _others(session)
            max_tokens = gr.Slider(16, 512, 96, step=1, label="Max tokens", elem_id="tune-max")
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", elem_id="tune-temperature")
            repeats = gr.Slider(
                1,
                9,
                REPEATS,
                step=1,
                label="Repeats",
                info="More runs tell smaller differences from chance.",
                elem_id="tune-repeats",
            )
            gr.HTML('<p class="pg fine" id="tune-rest"></p>', apply_default_css=False, container=False)
            with gr.Row():
                start = gr.Button("Sweep", variant="primary", min_width=80, elem_id="tune-start")
                stop = gr.Button("Stop", variant="secondary", min_width=80, elem_id="tune-stop")
        with gr.Column(scale=1, min_width=320, elem_id="tune-shown"):
            progress = gr.HTML(_EMPTY, apply_default_css=False, elem_id="tune-progress", container=False)
            words = gr.HTML("", apply_default_css=False, elem_id="tune-words", container=False)
            drawn = gr.HTML(
                value=[],
                html_template='<div class="pg tune-figures"></div>',
                js_on_load="window.Playground.mountFigures(element.querySelector('.tune-figures'), props, watch)",
                apply_default_css=False,
                elem_id="tune-figures",
                plotly=plotly,
            )
            projection = gr.HTML("", apply_default_css=False, elem_id="tune-elsewhere", container=False)
    stops = Stops()

    async def sweep_prompts(
        source: str,
        prompts: str,
        ks: list[str],
        max_tokens: float,
        temperature: float,
        repeats: float,
        acceptors: list[str],
        drafters: list[str],
        temperatures: str,
        pairs: list[str],
        top_p: float,
        top_k: float,
        seed: float | None,
        acceptor: str,
        drafter: str,
        system: str,
        chat_template: bool,
        visitor: gr.Request,
    ) -> AsyncGenerator[Shown, None]:
        # A second Sweep of the same visitor stops the first.
        owner = str(visitor.session_hash)
        stops.stop(owner, _SWEEP, keep=False)
        chosen = _prompts(source, prompts, examples)

        def start(stop: asyncio.Event) -> Generator[Step, None, None]:
            request = Request(
                system=system or "",
                chat_template=chat_template,
                max_tokens=int(max_tokens),
                sampling=Sampling(float(temperature), float(top_p), int(top_k), int(seed or 0)),
                acceptor=acceptor,
                drafter=drafter,
            )
            if not (ks or acceptors or drafters or temperatures.strip() or pairs):
                raise RequestError("No window cannot be swept; choose windows, or something else to compare.")
            compared = variants(
                request,
                ks=[parse_k(k) for k in ks],
                acceptors=acceptors,
                drafters=drafters,
                temperatures=_numbers(temperatures),
                pairs=pairs,
            )
            runner, before = _Runner(session, desk, stop), session.chosen
            try:
                yield from sweep(runner, desk.limits.checked(request), chosen, compared, int(repeats), session.switch)
            finally:
                if pairs:
                    session.switch(before)

        with stops.run(owner, _SWEEP) as stop:
            async with aclosing(updates(start, desk, visitor_of(visitor), stop)) as shown:
                async for each in shown:
                    yield each

    async def stop_sweep(visitor: gr.Request) -> None:
        stops.stop(str(visitor.session_hash), _SWEEP, keep=False)

    start.click(
        sweep_prompts,
        [source, prompts, ks, max_tokens, temperature, repeats, *others, *(playground[name] for name in REST)],
        [progress, words, drawn, projection],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    stop.click(stop_sweep, None, None, queue=False, show_progress="hidden", api_visibility="private")
    own = [prompts, max_tokens, temperature]
    tab.select(
        None,
        [*(playground[name] for name in ("prompt", "max_tokens", "temperature")), *own],
        own,
        js="(...values) => window.Playground.followInTune(...values)",
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _others(session: Session) -> list[Any]:
    """What may be compared besides windows: acceptors, drafters, temperatures, pairs, in that order."""
    with gr.Accordion("Compare more than k", open=False, elem_id="tune-more"):
        acceptors = gr.CheckboxGroup(
            [each.name for each in session.acceptors],
            label="Acceptors",
            info="None: the Playground's alone. Every combination of what is chosen is run.",
            elem_id="tune-acceptors",
        )
        drafters = gr.CheckboxGroup(list(session.drafters), label="Drafters", elem_id="tune-drafters")
        temperatures = gr.Textbox("", label="Temperatures", placeholder="0, 0.7, 1", elem_id="tune-temperatures")
        several = len(session.pairs) > 1
        pairs = gr.CheckboxGroup(list(session.pairs), label="Pairs", visible=several, elem_id="tune-pairs")
    return [acceptors, drafters, temperatures, pairs]


def _numbers(text: str) -> list[float]:
    """A list of temperatures as people write it. Raises RequestError."""
    try:
        return [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        raise RequestError(f"{text!r} is no list of temperatures; write it like 0, 0.7, 1.") from None


def _prompts(source: str, own: str, examples: Sequence[dict[str, str]]) -> list[str]:
    if source == OWN:
        return [stripped for each in own.splitlines() if (stripped := each.strip())]
    if source == ALL:
        return [each["prompt"] for each in examples]
    first: dict[str, str] = {}
    for each in examples:
        first.setdefault(each["category"], each["prompt"])
    return list(first.values())


@dataclass(frozen=True, slots=True)
class _Runner:
    """The session as a sweep runs it: each run within the page's limits, and counted."""

    session: Session
    desk: Desk
    stop: asyncio.Event

    @property
    def windows(self) -> tuple[int, ...] | None:
        return self.session.windows

    def run(self, request: Request) -> Generator[Event, None, None]:
        return self.desk.events(lambda: self.session.run(request, stopped=self.stop.is_set), self.stop)


async def updates(
    start: Callable[[asyncio.Event], Generator[Step, None, None]], desk: Desk, visitor: Visitor, stop: asyncio.Event
) -> AsyncGenerator[Shown, None]:
    """What the outputs show while a sweep goes on; all is drawn anew only when a run has ended."""
    same = gr.skip()

    def drawn() -> Generator[Shown, None, None]:
        with closing(start(stop)) as steps:
            yield from _drawn(steps, stop)

    try:
        async with desk.ticket(visitor, stop) as ticket:
            async for place in desk.line.places(ticket, stop):
                yield same if place is None else waiting_html(place.ahead, place.seconds), same, same, same
            if stop.is_set():
                yield error_html("Stopped before its turn came."), same, same, same
                return
            async with aclosing(desk.line.pumped(drawn)) as pumped:
                async for shown in pumped:
                    yield shown
    except Exception as error:
        yield error_html(desk.sentence(error)), same, same, same


def _drawn(steps: Iterator[Step], stop: asyncio.Event) -> Iterator[Shown]:
    same = gr.skip()
    done, due = -1, 0.0
    for step in steps:
        if stop.is_set():
            yield progress_html(step, stopped=True), same, same, same
            return
        if step.done != done:
            done = step.done
            sweep = step.sweep
            acceptance = sweep.acceptance_rate
            projected = "" if acceptance is None else elsewhere_html(acceptance)
            yield progress_html(step), sweep_html(sweep, step.done == step.total), figures(sweep), projected
            due = time.perf_counter() + SECONDS_BETWEEN_UPDATES
        elif time.perf_counter() >= due:
            yield progress_html(step), same, same, same
            due = time.perf_counter() + SECONDS_BETWEEN_UPDATES


def build_what_if(desk: Desk) -> None:
    """Put the judgement of a single run into the Blocks context it is called in; it needs no session."""
    gr.HTML(
        '<section class="pg tune"><h2>What if, from a single run</h2><p class="fine">A recorded run '
        "tells what a smaller "
        "window would have kept of the same text, with no further run. Judged from the run shown in the Playground.</p>"
        "</section>",
        apply_default_css=False,
        container=False,
    )
    jsonl = gr.Textbox(visible=False)
    ask = gr.Button("Judge the run in the Playground", elem_id="what-if", min_width=240)
    answer = gr.HTML("", apply_default_css=False, elem_id="what-if-answer", container=False)
    ask.click(
        Boundary(desk).shown(judged, error_html),
        jsonl,
        answer,
        js="() => [window.Playground.store.run.lines.length ? window.Playground.store.run.jsonl : '']",
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )


def judged(jsonl: str) -> str:
    """The what-if of a trace as the browser holds it. Raises PlaygroundError."""
    if not jsonl.strip():
        raise RequestError("There is no run in the Playground yet; press Run there first.")
    return what_if_html(read_text(jsonl))


_EMPTY = (
    '<div class="pg tune"><p class="fine">A longer window pays while drafts are kept, and costs '
    "time when they are not. "
    "A sweep runs both arms with every chosen window and shows which is best for these prompts, "
    "beside what the papers' "
    "formula says.</p></div>"
)
