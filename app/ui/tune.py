"""The Tune k tab: a sweep of the window, what one run tells of smaller windows, and a projection to Trainium.

Above: pure functions, sweep or trace -> escaped HTML and figures. Below: `build`, the components and their wiring.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

import gradio as gr

from app.errors import PlaygroundError, RequestError, TraceError
from app.record import theory, trace
from app.record.limits import DEFAULT_KS, MAX_K, MIN_K
from app.record.metrics import Metrics
from app.record.sweep import Step, Sweep, sentences, sweep
from app.record.trace import Event, Request, Sampling, Trace
from app.ui import plots
from app.ui.live import Line

SECONDS_BETWEEN_UPDATES = 0.2
OWN, EACH, ALL = "own", "each", "all"


class Session(Protocol):
    """What the tab needs of a loaded pair."""

    @property
    def windows(self) -> tuple[int, ...] | None: ...
    @property
    def max_k(self) -> int: ...
    @property
    def drafters(self) -> tuple[str, ...]: ...
    def run(self, request: Request) -> Generator[Event, None, None]: ...


def progress_html(step: Step, stopped: bool = False) -> str:
    """A bar, and what is being measured."""
    if stopped:
        words = f"Stopped after {step.done} of {step.total} runs."
    elif step.done == step.total:
        words = f"{step.total} runs of both arms."
    else:
        words = f"run {step.done + 1} of {step.total}, {step.doing}"
    return _progress(words, step.share, busy=not stopped and step.done < step.total)


def waiting_html(ahead: int) -> str:
    """Others are at the device."""
    return _progress(f"Waiting for the device: {ahead} ahead of you.", 0.0, busy=True)


def _progress(words: str, share: float, busy: bool) -> str:
    percent = round(100 * share)
    return (
        f'<div class="pg tune-progress"><div class="track" role="progressbar" aria-label="Sweep" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
        f'<p class="fine"{"" if busy else " role=status"}>{html.escape(words)}</p></div>'
    )


def error_html(message: str) -> str:
    """A sentence in the progress bar's place."""
    return f'<div class="pg tune"><p class="verdict no" role="alert">{html.escape(message)}</p></div>'


def sweep_html(found: Sweep, over: bool = True) -> str:
    """The verdict in words and the table. over: no run is still to come."""
    told = sentences(found)
    if not told:
        return ""
    best = found.best
    assert best is not None
    pays = "yes" if best.speedup > 1 else "no"
    so_far = "" if over else '<b class="label">so far</b>'
    facts = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in told[1:])
    return (
        f'<section class="pg tune"><p class="verdict {pays}"><span class="figure">k = {best.k}{so_far}</span> '
        f"{html.escape(told[0])}</p><ul>{facts}</ul>{_sweep_table(found)}"
        f'<p class="fine">Over the whole sweep: acceptance α = {found.acceptance_rate or 0:.3f}, cost ratio c = '
        f"{found.cost_ratio or 0:.3f}. Speedup: quartiles over the runs. Formula: (1 - α^k) / ((1 - α) (v + (k - 1) c)). "
        "What-if: the same text walked again with the smaller window, from the runs of the widest one alone.</p></section>"
    )


def _sweep_table(found: Sweep) -> str:
    best = found.best
    guessed = {other.k: other for other in found.what_if}
    rows = []
    for point in found.points:
        other = guessed.get(point.k)
        what_if = "–" if other is None or other.tpot_s is None else f"{1000 * other.tpot_s:.2f}"
        lost = "best" if best is not None and point.k == best.k else f"+{100 * found.regret(point):.0f}%"
        spread = f"<small>{point.quartiles[0]:.2f} to {point.quartiles[1]:.2f}</small>" if point.runs > 1 else ""
        cells = (
            f"{point.speedup:.2f}×{spread}",
            f"{point.predicted_speedup:.2f}×",
            lost,
            f"{1000 * point.tpot_s:.2f}",
            what_if,
            f"{point.mean_acceptance_length:.2f}",
            f"{point.verify_ratio:.2f}",
            f"{point.identical} of {point.runs}",
        )
        mark = ' class="best"' if lost == "best" else ""
        rows.append(f'<tr{mark}><th scope="row">{point.k}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    heads = (
        "k",
        "speedup",
        "formula",
        "time lost",
        "TPOT, ms",
        "what-if, ms",
        "tokens a pass",
        "verify ratio v",
        "same text",
    )
    return _table(heads, rows, "Windows")


def _table(heads: Sequence[str], rows: Sequence[str], label: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def elsewhere_html(acceptance: float) -> str:
    """The same agreement at the published latencies, labelled for what it is."""
    rows = [
        f'<tr><th scope="row">{other.pair.target} + {other.pair.draft}</th><td>{other.pair.target_ms:g}</td>'
        f"<td>{other.pair.draft_ms:g}</td><td>{other.pair.cost_ratio:.2f}</td><td>{other.k}</td>"
        f"<td>{other.tpot_ms:.1f}</td><td>{other.speedup:.2f}×</td></tr>"
        for other in theory.elsewhere(acceptance)
    ]
    heads = ("pair", "target alone, ms", "draft, ms", "c", "best k", "TPOT, ms", "speedup")
    return (
        '<section class="pg tune"><h4>Elsewhere <b class="label">a projection, not a measurement</b></h4>'
        f"<p>If such a pair agreed as often as this one just did (α = {acceptance:.3f}), at the median latencies AWS "
        "published for Trainium, and if verifying a window cost what one token costs (v = 1):</p>"
        f"{_table(heads, rows, 'Projection')}</section>"
    )


def what_if_html(events: Trace) -> str:
    """What one recorded run tells of smaller windows. Raises TraceError where it has no speculative arm."""
    found = theory.what_if(events)
    metrics = Metrics(events)
    arm = metrics.arms.get("speculative")
    if not found or arm is None:
        raise TraceError("This run has no speculative arm that drafted; run both arms in the Playground first.")
    timed = [other for other in found if other.tpot_s is not None]
    best = min(timed, key=lambda other: other.tpot_s or 0, default=None)
    alone = metrics.arms["target"].tpot_s if "target" in metrics.arms else None
    rows = []
    for other in found:
        tpot = "–" if other.tpot_s is None else f"{1000 * other.tpot_s:.2f}"
        speedup = "–" if other.tpot_s is None or alone is None else f"{alone / other.tpot_s:.2f}×"
        mark = ' class="best"' if best is not None and other.k == best.k else ""
        rows.append(
            f'<tr{mark}><th scope="row">{other.k}</th><td>{other.expected_length:.2f}</td><td>{tpot}</td><td>{speedup}</td></tr>'
        )
    measured = "" if arm.tpot_s is None else f", measured {1000 * arm.tpot_s:.2f} ms a token at k = {arm.window}"
    words = (
        "The run has no target arm, so only lengths are known."
        if best is None
        else f"From this run alone (τ = {arm.mean_acceptance_length or 0:.2f}{measured}), k = {best.k} would have been "
        f"{'better' if best.k < arm.window else 'right'}: {1000 * (best.tpot_s or 0):.2f} ms a token."
    )
    heads = ("k", "tokens a pass", "TPOT, ms", "speedup")
    return f'<section class="pg tune"><p>{html.escape(words)}</p>{_table(heads, rows, "What-if")}</section>'


def figures(found: Sweep) -> list[dict[str, Any]]:
    """The value of the tab's plots: title, note and figure of each."""
    if not found.points:
        return []
    drawn = plots.sweep_figures(found)
    shown = [
        ("Time per output token by k", "Lower is better.", drawn["tpot"]),
        ("Speedup by k", "Higher is better; bars are quartiles over the runs.", drawn["speedup"]),
        (
            "Elsewhere: projected time per output token at the published Trainium latencies",
            "A projection from the acceptance measured here, not a measurement.",
            plots.elsewhere_figure(found.acceptance_rate or 0.0),
        ),
    ]
    return [{"title": title, "note": note, "figure": plots.to_json(figure)} for title, note, figure in shown]


# --- the components ---

Shown = tuple[Any, Any, Any, Any]
"""Progress, words, figures, projection."""


def build(session: Session | None, line: Line, prompt: str, examples: Sequence[dict[str, str]], plotly: str) -> None:
    """Put the tab's components into the Blocks context it is called in.

    session None: recorded runs only. plotly: the address of Plotly's script.
    """
    gr.HTML(f"<style>{_STYLE}</style>", apply_default_css=False, elem_id="tune-style")
    if session is not None:
        _sweep_part(session, line, prompt, examples, plotly)
    _what_if_part()


def _sweep_part(session: Session, line: Line, prompt: str, examples: Sequence[dict[str, str]], plotly: str) -> None:
    known = range(MIN_K, min(MAX_K, session.max_k) + 1) if session.windows is None else session.windows
    ks_known = [k for k in known if k >= MIN_K]
    which = [("these", OWN)]
    if examples:
        categories = {each["category"] for each in examples}
        which += [(f"an example of each kind ({len(categories)})", EACH), (f"all examples ({len(examples)})", ALL)]
    with gr.Row(elem_id="tune", equal_height=False):
        with gr.Column(scale=0, min_width=292, elem_id="tune-knobs"):
            source = gr.Radio(which, value=OWN, label="Prompts", elem_id="tune-source", visible=len(which) > 1)
            prompts = gr.Textbox(prompt, label="Prompts, one a line", lines=3, max_lines=8, elem_id="tune-prompts")
            source.change(
                lambda chosen: gr.update(visible=chosen == OWN),
                source,
                prompts,
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )
            ks = gr.CheckboxGroup(
                [str(k) for k in ks_known],
                value=[str(k) for k in ks_known if k in DEFAULT_KS or session.windows is not None],
                label="Windows k",
                elem_id="tune-ks",
            )
            max_tokens = gr.Slider(16, 512, 96, step=1, label="Max tokens", elem_id="tune-max")
            temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", elem_id="tune-temperature")
            repeats = gr.Slider(
                1, 5, 1, step=1, label="Repeats", info="More runs, narrower quartiles.", elem_id="tune-repeats"
            )
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
    stops: dict[str, threading.Event] = {}

    def sweep_prompts(
        source: str,
        prompts: str,
        ks: list[str],
        max_tokens: float,
        temperature: float,
        repeats: float,
        visitor: gr.Request,
    ) -> Iterator[Shown]:
        # A second Sweep of the same visitor stops the first.
        if (before := stops.get(str(visitor.session_hash))) is not None:
            before.set()
        stopped = stops[str(visitor.session_hash)] = threading.Event()
        chosen = _prompts(source, prompts, examples)
        request = Request(
            max_tokens=int(max_tokens),
            sampling=Sampling(temperature=float(temperature)),
            drafter=session.drafters[0],
        )
        try:
            yield from _updates(
                lambda: sweep(session, request, chosen, [int(k) for k in ks], int(repeats)), line, stopped
            )
        finally:
            if stops.get(str(visitor.session_hash)) is stopped:
                del stops[str(visitor.session_hash)]

    def stop_sweep(visitor: gr.Request) -> None:
        if (stopped := stops.get(str(visitor.session_hash))) is not None:
            stopped.set()

    start.click(
        sweep_prompts,
        [source, prompts, ks, max_tokens, temperature, repeats],
        [progress, words, drawn, projection],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    stop.click(stop_sweep, None, None, queue=False, show_progress="hidden", api_visibility="private")


def _prompts(source: str, own: str, examples: Sequence[dict[str, str]]) -> list[str]:
    if source == OWN:
        return [stripped for each in own.splitlines() if (stripped := each.strip())]
    if source == ALL:
        return [each["prompt"] for each in examples]
    first: dict[str, str] = {}
    for each in examples:
        first.setdefault(each["category"], each["prompt"])
    return list(first.values())


def _updates(start: Callable[[], Generator[Step, None, None]], line: Line, stopped: threading.Event) -> Iterator[Shown]:
    """What the outputs show while a sweep goes on; all is drawn anew only when a run has ended."""
    same = gr.skip()
    with line.ticket() as ahead:
        told = 0
        while (before_me := ahead(0.0 if not told else 0.3)) and not stopped.is_set():
            yield waiting_html(before_me), same, same, same
            told = before_me
        try:
            with closing(start()) as steps:
                yield from _drawn(steps, stopped)
        except PlaygroundError as error:
            yield error_html(str(error)), same, same, same


def _drawn(steps: Iterator[Step], stopped: threading.Event) -> Iterator[Shown]:
    same = gr.skip()
    done, due = -1, 0.0
    for step in steps:
        if stopped.is_set():
            yield progress_html(step, stopped=True), same, same, same
            return
        if step.done != done:
            done = step.done
            found = step.sweep
            acceptance = found.acceptance_rate
            projected = "" if acceptance is None else elsewhere_html(acceptance)
            yield progress_html(step), sweep_html(found, step.done == step.total), figures(found), projected
            due = time.perf_counter() + SECONDS_BETWEEN_UPDATES
        elif time.perf_counter() >= due:
            yield progress_html(step), same, same, same
            due = time.perf_counter() + SECONDS_BETWEEN_UPDATES


def _what_if_part() -> None:
    gr.HTML(
        '<section class="pg tune"><h4>What if, from a single run</h4><p class="fine">A recorded run tells what a smaller '
        "window would have kept of the same text, with no further run. Judged from the run shown in the Playground.</p>"
        "</section>",
        apply_default_css=False,
        container=False,
    )
    jsonl = gr.Textbox(visible=False)
    ask = gr.Button("Judge the run in the Playground", elem_id="what-if", min_width=240)
    answer = gr.HTML("", apply_default_css=False, elem_id="what-if-answer", container=False)
    ask.click(
        judged,
        jsonl,
        answer,
        js="() => [window.Playground.store.run.lines.length ? window.Playground.store.run.jsonl : '']",
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )


def judged(jsonl: str) -> str:
    """The what-if of a trace as the browser holds it; a fault becomes a sentence."""
    try:
        if not jsonl.strip():
            raise RequestError("There is no run in the Playground yet; press Run there first.")
        if len(jsonl) > trace.MAX_TRACE_BYTES:
            raise TraceError("This run is too long to be judged; run a shorter one.")
        return what_if_html(trace.read(jsonl.splitlines()))
    except PlaygroundError as error:
        return error_html(str(error))


_EMPTY = (
    '<div class="pg tune"><p class="fine">A longer window pays while drafts are kept, and costs time when they are not. '
    "A sweep runs both arms with every chosen window and shows which is best for these prompts, beside what the papers' "
    "formula says.</p></div>"
)

_STYLE = """
.tune { display: grid; gap: 12px; grid-template-columns: minmax(0, 1fr); }
.tune .verdict { margin: 0; padding: 10px 16px; border: 1px solid var(--line); border-left-width: 6px; border-radius: 10px; background: var(--panel); font-size: 17px; }
.tune .verdict.yes { border-left-color: var(--accepted); }
.tune .verdict.no { border-left-color: var(--rejected); border-left-style: double; }
.tune .figure { display: block; font-size: 34px; line-height: 1.2; font-weight: 700; letter-spacing: -0.02em; color: var(--accepted); }
.tune .verdict.no .figure { color: var(--rejected); }
.tune ul { margin: 0; padding-left: 22px; list-style: disc; }
.tune li { margin: 3px 0; }
.tune .fine, .plot-note { color: var(--muted); font-size: 13.5px; max-width: 90ch; }
.tune .scroll { overflow-x: auto; }
.tune table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
.tune th, .tune td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
.tune th:first-child { text-align: left; } .tune thead th { color: var(--muted); font-weight: 500; }
.tune td small { display: block; color: var(--muted); font-size: 12.5px; }
.tune tr.best th, .tune tr.best td { font-weight: 700; background: var(--accepted-wash); }
.tune tr.best th::before { content: "▸ "; }
.tune .label { margin-left: 8px; letter-spacing: 0; vertical-align: middle; border: 1px dashed var(--corrected); color: var(--corrected); border-radius: 999px; padding: 0 8px; font-size: 12.5px; font-weight: 600; }
.tune-progress .track { height: 10px; border-radius: 5px; background: var(--line); overflow: hidden; }
.tune-progress .track i { display: block; height: 100%; background: var(--accepted); }
.tune-progress .fine { margin-top: 4px; color: var(--muted); font-size: 14px; overflow-wrap: anywhere; }
.tune-figures { display: grid; gap: 14px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.tune-figures:empty { display: none; }
.tune-figures .plot:nth-child(3) { grid-column: 1 / -1; }
.tune-figures .plot-area { height: 300px; }
@media (max-width: 900px) { .tune-figures { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 700px) { #tune-knobs { flex: 1 1 100% !important; } }
"""
