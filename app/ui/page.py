"""The page: its tabs, put together, and what it is launched with. Each tab lies in a module of its own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from app.neuron.monitor import MemoryMonitor
from app.record.trace import Trace
from app.ui import about, api, assets, chooser, hardware, instruments, knobs, playground, recordings, tune, upkeep
from app.ui.desk import Desk
from app.ui.first_script import FirstScript
from app.ui.guard import WILDCARDS, Guard, allowed_hosts
from app.ui.header import SCRIPT, header_html
from app.ui.session import Session
from app.ui.theme import theme

TITLE = "Speculative sampling playground"
JOBS = 1024
"""What Gradio may have under way, the runs that wait included; the line is shorter."""


def build_page(
    session: Session | None,
    examples: Sequence[dict[str, str]] = (),
    replay: Trace | None = None,
    desk: Desk | None = None,
) -> gr.Blocks:
    """The page of a loaded pair, or, with no session, of recorded runs alone.

    examples: {"category", "prompt"} each. replay: a trace to show first. desk: where runs are taken in. Launch with
    `launch_options()`.
    """
    desk = desk or Desk()
    page: gr.Blocks = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True)
    with page:
        header = gr.HTML(
            header_html(session, desk.line.engines), apply_default_css=False, js_on_load=SCRIPT, elem_id="header"
        )
        pair = None if session is None else chooser.build(session)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):  # no tab behind a menu, however narrow
            with gr.Tab("Playground", id="playground"):
                controls = playground.build(session, desk, replay)
            with gr.Tab("Rounds", id="rounds"):
                gr.HTML(
                    html_template='<div class="pg-mount"></div>',
                    js_on_load="window.Playground.mountRounds(element.querySelector('.pg-mount'))",
                    apply_default_css=False,
                    elem_id="rounds-view",
                )
            with gr.Tab("Tune k", id="tune") as tab:
                if session is not None:
                    tune.build_sweep(session, desk, tab, controls, examples, assets.plotly_address())
                tune.build_what_if(desk)
            with gr.Tab("Instruments", id="instruments"):
                instruments.build(desk)
            with gr.Tab("Hardware", id="hardware"):
                hardware.build(None if session is None else MemoryMonitor(main_memory=session.memory))
            with gr.Tab("About", id="about"):
                told = gr.HTML(_about(session), apply_default_css=False, elem_id="about-text")
        if session is not None:
            api.build(session, desk)
        if session is not None and pair is not None:

            def shown() -> list[Any]:
                knobs_ = [gr.update(**each) for each in knobs.of_pair(session, controls).values()]
                return [header_html(session, desk.line.engines), _about(session), *knobs_]

            of_pair = [controls[name] for name in knobs.of_pair(session, controls)]
            chooser.wire(page, session, desk, pair, [header, told, *of_pair], shown)
    page.queue(default_concurrency_limit=None, max_size=JOBS)
    # Gradio looks for work a thousand times a second, and for progress (of which there is none) a hundred times, on a
    # processor that the engine has to itself otherwise. These are its own figures for Windows.
    page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = 0.05, 0.1
    upkeep.lighten(page)
    return page


def _about(session: Session | None) -> str:
    return about.page(session, recordings.first_recording(), assets.model_card())


def launch_options(
    session: Session | None = None,
    desk: Desk | None = None,
    host: str = "127.0.0.1",
    allow_hosts: tuple[str, ...] = (),
    login: bool = False,
) -> dict[str, Any]:
    """What `Blocks.launch` needs for this page: everything from this host, nothing shared, nothing counted.

    desk: that of the page. host: what it listens on; allow_hosts: other names it answers to. login: one is asked for.
    """
    desk = desk or Desk()
    guard = Middleware(
        Guard,
        desk=desk,
        hosts=allowed_hosts(host, allow_hosts),
        any_address=host in WILDCARDS,
        files=frozenset({str(assets.plotly())}),
        health=lambda: health(session, desk),
        login=login,
    )
    options: dict[str, Any] = {
        "theme": theme(),
        # Not `css` and `js`: Gradio rewrites the selectors of the one and delays the other.
        "head": f"<style>{assets.page_style()}</style><script>{assets.page_script()}</script>",
        "app_kwargs": {"middleware": [guard, Middleware(FirstScript, script=assets.first_script())]},
        "allowed_paths": [str(assets.plotly())],
        "footer_links": ["api"],
        "share": False,
        "state_session_capacity": upkeep.SESSIONS,
        "max_threads": JOBS,  # a job that waits holds no thread, but a place among as many
    }
    if "run_history" in inspect.signature(gr.Blocks.launch).parameters:  # newer Gradios would keep every run as well
        options["run_history"] = False
    return options


def health(session: Session | None, desk: Desk) -> dict[str, object]:
    """What `GET /healthz` says: that the page is there, what it runs, and how many wait."""
    pair = None if session is None else session.pair
    return {
        "status": "ok",
        "pair": pair,
        "engines": desk.line.engines,
        "running": desk.line.running,
        "waiting": desk.line.waiting,
    }
