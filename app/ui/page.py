"""The page: components and their wiring. What they show comes from `render` and `live`, how it looks from assets/.

Everything a run shows goes through one output, the token view, as small updates; a Run is stopped by its own id, so
that it can end its trace in good order instead of being cut off.
"""

from __future__ import annotations

import html
import inspect
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from gradio.events import api
from starlette.middleware import Middleware

from app.errors import PlaygroundError, TraceError
from app.record import trace
from app.record.limits import AUTO, MAX_K, MIN_K
from app.record.metrics import DEFINITIONS, Metrics
from app.record.trace import Arms, Event, ModelCard, Request, Sampling, Trace
from app.ui import about, assets, chooser, hardware, plots, tune
from app.ui.export import export_html
from app.ui.first_script import FirstScript
from app.ui.live import Line, Recent, stream
from app.ui.render import items

DEFAULT_PROMPT = "Explain what a transformer language model is, in three sentences."
TITLE = "Speculative sampling playground"
_DRAFTERS = {"draft": "draft model", "lookup": "lookup", "draft+lookup": "either, by the round"}
_ARMS = [("both, racing", "both"), ("target only", "target"), ("speculative only", "speculative")]


class AcceptorCard(Protocol):
    """What the page says of an acceptor."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def lossless(self) -> bool: ...
    @property
    def same_text(self) -> bool: ...


class Session(Protocol):
    """What the page needs of a loaded pair."""

    @property
    def pair(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def target(self) -> ModelCard: ...
    @property
    def draft(self) -> ModelCard | None: ...
    @property
    def windows(self) -> tuple[int, ...] | None: ...
    @property
    def max_k(self) -> int: ...
    @property
    def default_k(self) -> int: ...
    @property
    def bit_identical(self) -> bool: ...
    @property
    def acceptors(self) -> Sequence[AcceptorCard]: ...
    @property
    def drafters(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> tuple[str, ...]: ...
    @property
    def chosen(self) -> str: ...
    def switch(self, name: str) -> None: ...
    def run(self, request: Request) -> Generator[Event, None, None]: ...
    def memory(self) -> int: ...


def build_page(
    session: Session | None,
    examples: Sequence[dict[str, str]] = (),
    replay: Trace | None = None,
    warm_up: Callable[[Session], None] = lambda session: None,
) -> gr.Blocks:
    """The page of a loaded pair, or, with no session, of recorded runs alone.

    examples: {"category", "prompt"} each. replay: a trace to show first. warm_up: for a pair loaded on the page.
    Launch with `launch_options()`.
    """
    line = Line()
    page: gr.Blocks = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True)
    with page:
        header = gr.HTML(_header(session), apply_default_css=False, js_on_load=_HEADER_SCRIPT, elem_id="header")
        pair, note = (None, None) if session is None else chooser.build(session)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Playground", id="playground"):
                drafter = _playground_tab(session, line, examples, replay)
            with gr.Tab("Rounds", id="rounds"):
                gr.HTML(
                    html_template='<div class="pg-mount"></div>',
                    js_on_load="window.Playground.mountRounds(element.querySelector('.pg-mount'))",
                    apply_default_css=False,
                    elem_id="rounds-view",
                )
            with gr.Tab("Tune k", id="tune"):
                tune.build(session, line, DEFAULT_PROMPT, examples, _plotly_address())
            with gr.Tab("Hardware", id="hardware"):
                hardware.build()
            with gr.Tab("About", id="about"):
                told = gr.HTML(about.page(session, *_embedded()), apply_default_css=False, elem_id="about-text")
        if session is not None:
            _api(session, line)
        if session is not None and pair is not None and note is not None:

            def shown() -> list[Any]:
                return [_header(session), about.page(session, *_embedded()), gr.update(**_drafters(session))]

            chooser.wire(page, session, line, pair, note, [header, told, drafter], shown, lambda: warm_up(session))
    page.queue(default_concurrency_limit=None)
    # Gradio looks for work a thousand times a second, and for progress (of which there is none) a hundred times, on a
    # processor that the engine has to itself otherwise. These are its own figures for Windows.
    page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = 0.05, 0.1
    return page


def launch_options() -> dict[str, Any]:
    """What `Blocks.launch` needs for this page: everything from this host, nothing shared, nothing counted."""
    options: dict[str, Any] = {
        "theme": _theme(),
        # Not `css` and `js`: Gradio rewrites the selectors of the one and delays the other.
        "head": f"<style>{assets.style()}{_PAGE_STYLE}</style><script>{assets.script()}\nPlayground.started?.();</script>",
        "app_kwargs": {"middleware": [Middleware(FirstScript, script=assets.first_script())]},
        "allowed_paths": [str(_plotly())],
        "footer_links": ["api"],
        "share": False,
    }
    if "run_history" in inspect.signature(gr.Blocks.launch).parameters:  # newer Gradios would keep every run as well
        options["run_history"] = False
    return options


def _playground_tab(
    session: Session | None, line: Line, examples: Sequence[dict[str, str]], replay: Trace | None
) -> gr.Radio | None:
    """The tab; returns the drafter's knob, whose choices are the pair's."""
    if session is None:
        gr.HTML(
            '<p class="pg no-model">No model is loaded: this page replays recorded runs. '
            "Start it without --replay to run your own.</p>",
            apply_default_css=False,
        )
        _token_view(replay, Recent(), alone=True)
        return None
    with gr.Row(elem_id="bench", equal_height=False):
        with gr.Column(scale=0, min_width=292, elem_id="knobs"):
            knobs = _knobs(session)
        with gr.Column(scale=1, min_width=320, elem_id="stage"):
            prompt, run, stop = _prompt_row(examples)
            run_id = gr.Textbox(visible=False)
            recent = Recent()
            view = _token_view(replay, recent)
    stops: dict[str, threading.Event] = {}

    def run_prompt(prompt: str, *values: Any) -> Iterator[list[str]]:
        *knob_values, id_ = values
        stopped = stops[id_] = threading.Event()
        try:
            request = _request(prompt, *knob_values)
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
        [prompt, *knobs, run_id],
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
    drafter: gr.Radio = next(knob for knob in knobs if knob.elem_id == "drafter")
    return drafter


def _drafters(session: Session) -> dict[str, Any]:
    choices = [(_DRAFTERS.get(name, name), name) for name in session.drafters]
    return {"choices": choices, "value": session.drafters[0]}


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


def _knobs(session: Session) -> list[Any]:
    """Components in the order of `_request`'s arguments after the prompt's."""
    k_info = "Tokens scored per target pass. Longer pays only while drafts are kept."
    k: gr.Slider | gr.Radio
    if session.windows is not None:
        known = [window for window in session.windows if window >= MIN_K]
        default = session.default_k if session.default_k in known else known[0]
        k = gr.Radio(known, value=default, label="Window k", info=k_info, elem_id="k")
    else:
        k = gr.Slider(
            MIN_K, min(MAX_K, session.max_k), session.default_k, step=1, label="Window k", info=k_info, elem_id="k"
        )
    auto = gr.Checkbox(
        False,
        label="Choose k while running",
        info="Drafts on while the draft is sure enough for what a pass costs here; it may stop drafting.",
        visible=session.draft is not None,
        elem_id="auto-k",
    )
    max_tokens = gr.Slider(1, 2048, 128, step=1, label="Max tokens", info="Where both answers end.", elem_id="max")
    temperature = gr.Slider(
        0,
        2,
        0,
        step=0.05,
        label="Temperature",
        info="0: the likeliest token, and one text in both arms. Higher: fewer drafts kept.",
        elem_id="temperature",
    )
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        top_p = gr.Slider(
            0.05, 1, 1, step=0.05, label="top_p", info="Only the likeliest tokens up to this sum. 1: all."
        )
        top_k = gr.Slider(0, 200, 0, step=1, label="top_k", info="Only so many of the likeliest tokens. 0: all.")
        seed = gr.Number(0, label="Seed", info="The same seed draws the same text again.", precision=0, minimum=0)
    names = [(f"{each.name} · {'lossless' if each.lossless else 'lossy'}", each.name) for each in session.acceptors]
    acceptor = gr.Dropdown(
        names, value=session.acceptors[0].name, label="Acceptor", filterable=False, elem_id="acceptor"
    )
    notes = {each.name: _acceptor_note(each) for each in session.acceptors}
    note = gr.HTML(notes[session.acceptors[0].name], apply_default_css=False, elem_id="acceptor-note")
    acceptor.change(notes.get, acceptor, note, queue=False, show_progress="hidden", api_visibility="private")
    drafter = gr.Radio(
        **_drafters(session),
        label="Drafter",
        info="Lookup copies what followed the last tokens before: for answers that repeat the prompt.",
        elem_id="drafter",
    )
    arms = gr.Radio(
        _ARMS,
        value="both",
        label="Arms",
        info="They take turns on the device, each on its own clock.",
        elem_id="arms",
    )
    with gr.Accordion("System prompt and template", open=False, elem_id="format"):
        system = gr.Textbox("", label="System prompt", info="Empty: the model's own.", lines=2)
        chat_template = gr.Checkbox(True, label="Chat template", info="Off: the model continues the prompt as it is.")
    return [k, max_tokens, temperature, top_p, top_k, seed, acceptor, drafter, arms, system, chat_template, auto]


def _acceptor_note(card: AcceptorCard) -> str:
    same = " Both arms print the same text at any temperature." if card.same_text else ""
    mark = "lossless" if card.lossless else "lossy"
    return f'<p class="pg note"><b class="{mark}">{mark}</b> {html.escape(card.description)}{same}</p>'


def _request(
    prompt: str,
    k: float,
    max_tokens: float,
    temperature: float,
    top_p: float,
    top_k: float,
    seed: float | None,
    acceptor: str,
    drafter: str,
    arms: Arms,
    system: str,
    chat_template: bool,
    auto: bool = False,
) -> Request:
    """The knobs as a request. auto: k is chosen round by round. Sliders give floats and an emptied number None."""
    return Request(
        prompt=prompt or "",
        system=system or "",
        chat_template=chat_template,
        max_tokens=int(max_tokens),
        k=AUTO if auto else int(k),
        sampling=Sampling(float(temperature), float(top_p), int(top_k), int(seed or 0)),
        acceptor=acceptor,
        drafter=drafter,
        arms=arms,
    )


def _token_view(replay: Trace | None, recent: Recent, alone: bool = False) -> gr.HTML:
    """The one custom component. Its value is `live.Updates`; traces it opens itself go by its server functions.

    recent: the runs whose updates a browser may ask for. alone: there is no model to run.
    """

    def open_trace(text: str) -> dict[str, Any]:
        try:
            return {"items": items(_read(text))}
        except PlaygroundError as error:
            return {"error": str(error)}

    def recording(name: str) -> dict[str, Any]:
        path = assets.REPLAYS / f"{name}.jsonl"
        if name not in {known["name"] for known in _recordings()}:
            return {"error": f"There is no recorded run {name!r}; choose one of the list."}
        return open_trace(path.read_text(encoding="utf-8"))

    def preloaded(_: object = None) -> dict[str, Any]:
        # gradio hands every server function an argument, given or not
        return {"items": items(replay or [])}

    def missed(asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"slots": recent.since(asked.get("run"), asked.get("seq"))}
        except PlaygroundError as error:
            return {"error": str(error)}

    def page_of(text: str) -> dict[str, Any]:
        try:
            return {"page": export_html(_read(text))}
        except PlaygroundError as error:
            return {"error": str(error)}

    settings = {
        "definitions": DEFINITIONS,
        "figure": plots.to_json(plots.tpot_figure(Metrics())),
        "plotly": _plotly_address(),
        "recordings": _recordings(),
        "preloaded": replay is not None,
        "alone": alone,
    }
    return gr.HTML(
        value=[],
        html_template='<div class="pg-mount"></div>',
        # Not as props: at every update gradio writes all of them as JSON, several times, to see what has changed.
        js_on_load=f"""window.Playground.mount(
            element.querySelector('.pg-mount'), {assets.json_for_html(settings)}, props, watch, server)""",
        apply_default_css=False,
        server_functions=[open_trace, recording, preloaded, missed, page_of],
        elem_id="token-view",
    )


def _read(text: str) -> Trace:
    if len(text) > trace.MAX_TRACE_BYTES:
        raise TraceError(f"This trace is larger than {trace.MAX_TRACE_BYTES // 2**20} MiB; open a smaller one.")
    return trace.read(text.splitlines())


def _recordings() -> list[dict[str, str]]:
    """The recorded runs: the name of each, and what its first line says of it."""
    found = []
    for path in sorted(assets.REPLAYS.glob("*.jsonl")):
        with path.open(encoding="ascii") as lines:
            started = trace.loads(next(lines))
        assert isinstance(started, trace.RunStarted)
        request = started.request
        label = f"{request.prompt} (T = {request.sampling.temperature:g}, {request.acceptor}, k = {request.k})"
        found.append({"name": path.stem, "label": label})
    return found


def _embedded() -> tuple[Trace, str]:
    """For the About tab: the first recorded run of the embedded pair, and its draft's model card."""
    recorded = next(iter(sorted(assets.REPLAYS.glob("*.jsonl"))), None)
    card = assets.FOLDER / "draft" / "README.md"
    return (
        [] if recorded is None else _read(recorded.read_text(encoding="ascii")),
        card.read_text(encoding="utf-8") if card.exists() else "",
    )


def _api(session: Session, line: Line) -> None:
    """Endpoints for programs: /run, /pairs, /export."""

    def run(
        prompt: str,
        k: int = session.default_k,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        acceptor: str = session.acceptors[0].name,
        drafter: str = session.drafters[0],
        arms: str = "both",
        system: str = "",
        chat_template: bool = True,
    ) -> Iterator[str]:
        """Run one prompt. Streams the events of the run, each a line of JSON as in a trace file."""
        # The session refuses arms it does not know: a program may send anything.
        knobs = (k, max_tokens, temperature, top_p, top_k, seed, acceptor, drafter, arms, system, chat_template)
        request = _request(prompt, *knobs)  # type: ignore[arg-type]
        with line.turn():
            try:
                events = session.run(request)
                try:
                    yield from map(trace.dumps, events)
                finally:
                    events.close()
            except PlaygroundError as error:
                raise gr.Error(str(error), print_exception=False) from None

    def pairs() -> list[dict[str, Any]]:
        """What is loaded: the pair, its models, windows and acceptors."""
        return [describe(session)]

    def export(trace_lines: str) -> str:
        """A trace (the lines of its file) as one self-contained HTML page."""
        try:
            return export_html(_read(trace_lines))
        except PlaygroundError as error:
            raise gr.Error(str(error), print_exception=False) from None

    api(run, api_name="run", concurrency_limit=None)
    api(pairs, api_name="pairs", queue=False)
    api(export, api_name="export")


def describe(session: Session) -> dict[str, Any]:
    """The loaded pair as JSON types; sizes in bytes."""

    def model(card: ModelCard) -> dict[str, Any]:
        return {
            "name": card.name,
            "num_parameters": card.num_parameters,
            "dtype": card.dtype,
            "memory": card.memory,
            "vocab_size": card.vocab_size,
            "n_positions": card.n_positions,
        }

    return {
        "pair": session.pair,
        "backend": session.backend,
        "device": session.device,
        "target": model(session.target),
        "draft": None if session.draft is None else model(session.draft),
        "windows": None if session.windows is None else list(session.windows),
        "max_k": session.max_k,
        "default_k": session.default_k,
        "bit_identical": session.bit_identical,
        "acceptors": [
            {"name": each.name, "description": each.description, "lossless": each.lossless, "same_text": each.same_text}
            for each in session.acceptors
        ],
        "drafters": list(session.drafters),
        "listed": list(session.pairs),
        "process_memory": session.memory(),
    }


def _header(session: Session | None) -> str:
    card = "" if session is None else _pair_card(session)
    return (
        f'<header class="pg masthead"><h1>Speculative sampling</h1>{card}'
        '<button type="button" class="tool theme" aria-label="Switch between light and dark">◐</button></header>'
    )


def _pair_card(session: Session) -> str:
    models = [("target", session.target), *([] if session.draft is None else [("draft", session.draft)])]
    parts = [
        f"<span><i>{role}</i> <b>{html.escape(card.name)}</b> {_count(card.num_parameters)}, "
        f"{html.escape(card.dtype)}, {_megabytes(card.memory)}</span>"
        for role, card in models
    ]
    parts.append(
        f"<span><i>on</i> <b>{html.escape(session.backend)}</b> {html.escape(session.device)}, "
        f"process {_megabytes(session.memory())}</span>"
    )
    return f'<p class="pair-card">{"".join(parts)}</p>'


def _count(parameters: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g} {letter}"
    return str(parameters)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _plotly() -> Path:
    """Plotly's own script, as its package brings it."""
    import plotly  # type: ignore[import-untyped]

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def _plotly_address() -> str:
    return f"gradio_api/file={_plotly()}"


def _theme() -> gr.themes.Base:
    sans = ("-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif")
    mono = ("ui-monospace", "Menlo", "DejaVu Sans Mono", "Consolas", "monospace")
    green = gr.themes.Color(
        "#ecf9f4",
        "#d3f0e4",
        "#a9e2cc",
        "#6fcfac",
        "#2fae85",
        "#00785a",
        "#006a50",
        "#005843",
        "#004635",
        "#003629",
        "#00261d",
    )
    muted, muted_dark = "#55626e", "#a3afba"
    return gr.themes.Base(
        primary_hue=green,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        font=sans,
        font_mono=mono,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="#f5f7f8",
        body_background_fill_dark="#0d1216",
        body_text_color="#14202b",
        body_text_color_dark="#e9eef2",
        body_text_color_subdued=muted,
        body_text_color_subdued_dark=muted_dark,
        block_background_fill="#ffffff",
        block_background_fill_dark="#151b21",
        block_border_color="#d8dee4",
        block_border_color_dark="#2d3741",
        block_label_text_color=muted,
        block_label_text_color_dark=muted_dark,
        block_title_text_color="#14202b",
        block_title_text_color_dark="#e9eef2",
        block_title_text_weight="600",
        block_info_text_color=muted,
        block_info_text_color_dark=muted_dark,
        input_background_fill="#f5f7f8",
        input_background_fill_dark="#0d1216",
        slider_color="#00785a",
        slider_color_dark="#2fae85",
        button_primary_background_fill="#00785a",
        button_primary_background_fill_hover="#006248",
        button_primary_background_fill_dark="#00785a",
        button_primary_background_fill_hover_dark="#008d6a",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )


_HEADER_SCRIPT = """
element.addEventListener('click', (event) => event.target.closest('.theme') && document.body.classList.toggle('dark'));
"""

_PAGE_STYLE = """
.gradio-container { width: 100% !important; max-width: 1680px !important; margin: 0 auto !important; }
.gradio-container > main, .gradio-container .main { padding: 12px 22px 20px !important; }
.html-container { padding: 0 !important; }
#acceptor-note { padding: 0 4px !important; }
.masthead { display: flex; align-items: center; gap: 4px 24px; flex-wrap: wrap; }
.masthead h1 { font-size: 21px; font-weight: 700; letter-spacing: -0.02em; margin: 0; }
.masthead .pair-card { display: flex; flex: 1; flex-wrap: wrap; gap: 0 20px; color: var(--muted); font-size: 13px; min-width: 300px; }
.masthead .pair-card i { font-style: normal; color: var(--muted); }
.masthead .pair-card b { color: var(--ink); font-weight: 600; }
.masthead .theme { margin-left: auto; font-size: 17px; line-height: 1; padding: 6px 10px; }
.pg.note { font-size: 13.5px; color: var(--muted); }
.pg.note b { border: 1px solid currentColor; border-radius: 999px; padding: 0 7px; font-size: 12.5px; }
.pg.note b.lossless { color: var(--accepted); } .pg.note b.lossy { color: var(--corrected); border-style: dashed; }
.pg.note.fault { color: var(--corrected); font-weight: 600; }
#pair-row { align-items: center; } #pair-note { align-self: center; }
.no-model { padding: 8px 0; color: var(--muted); }
#run-column { gap: 10px; justify-content: space-between; }
#examples { flex-grow: 0; }
#run-column button { min-height: 48px; }
#knobs .head { display: block; position: relative; }
#knobs .head label { display: block; }
#knobs .head label > span { min-height: 30px; padding-right: 124px; }
#knobs .head .tab-like-container { position: absolute; top: 0; right: 0; }
#arms .wrap { gap: 6px; } #arms .wrap label { padding: 4px 8px; font-size: 13px; }
footer .divider { display: none; }
body.pg-running #stop { background: #b23f00; color: #ffffff; }
.dark #tabs button[aria-selected="true"] { color: #4ad6a7; }
#tabs button { font-size: 15px; }
@media (max-width: 700px) {
  .gradio-container > main, .gradio-container .main { padding: 8px 10px 16px !important; }
  #run-column { flex-grow: 1 !important; }
  #tabs .tab-wrapper button { font-size: 13px; padding: 8px 7px; }
  #bench { flex-direction: column; } #knobs { order: 2; } #stage { order: 1; }
}
"""
