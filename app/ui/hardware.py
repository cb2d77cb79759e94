"""The Hardware tab: the Neuron planner with memory per core as stacked bars, and live memory.

Above: pure functions, plan or reading -> escaped HTML. Below: `build`, the components and their wiring.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.errors import PlaygroundError
from app.neuron.catalogue import CORE_BYTES, INSTANCES, LIBRARIES, MODELS, Instance
from app.neuron.memory import DTYPE_BYTES, GB, CoreMemory
from app.neuron.monitor import PURPOSES, CoreUse, MemoryMonitor, MemoryReading
from app.neuron.plan import ModelPlan, Plan, plan

SECONDS_BETWEEN_READINGS = 5  # as often as neuron-monitor reports
OTHER = f"use-{PURPOSES.index('other')}"  # shown only where neuron-monitor names a purpose that is not known here
RECOMMENDED, SAME = "recommended", "same as the target's"
_INSTANCE, _TARGET, _DRAFT, _DTYPE, _N_POSITIONS = "trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048


@dataclass(frozen=True, slots=True)
class Part:
    """A layer of the stacked bars. kind: its colour and form in the style sheet."""

    kind: str
    name: str
    size: int


def plan_html(plan: Plan) -> str:
    """The verdict, the figures of both models, a core's memory, the reasons and the load order."""
    return (
        '<section class="pg hw" aria-live="polite">'
        + _verdict(plan)
        + _notes("Look out", plan.warnings, "warning")
        + _models_table(plan)
        + (_planned_bars(plan.instance, plan.tp_degree, plan.per_core) if plan.per_core and plan.tp_degree else "")
        + _notes("Why", plan.reasons)
        + _steps(plan.load_order)
        + '<p class="fine">Sizes are 10⁹ bytes. Weights and KV cache are computed, padded and replicated heads included. '
        "Working memory (code, scratch, runtime) is our estimate of 0.7 GB per core and model, fitted to six published "
        "figures of transformers-neuronx; a model's size counts it over all cores of the instance, as neuron-top would show it.</p></section>"
    )


def error_html(message: str) -> str:
    """A sentence in the plan's place."""
    return f'<section class="pg hw" aria-live="polite"><p class="verdict no">{html.escape(message)}</p></section>'


def memory_html(reading: MemoryReading) -> str:
    """Live memory: per core on a Neuron machine, the process's elsewhere, and why."""
    if not reading.on_device:
        return (
            '<section class="pg hw live"><h4>Memory of this process</h4>'
            f'<p><span class="figure">{_size(reading.total)}</span></p>'
            f'<p class="fine">{html.escape(reading.note)}</p></section>'
        )
    cores = f" on {len(reading.cores)} NeuronCores" if reading.cores else ""
    rest = f", {_size(reading.unattributed)} of it not told core by core" if reading.unattributed else ""
    return (
        '<section class="pg hw live"><h4>Device memory of this process, live</h4>'
        f'<p><span class="figure">{_size(reading.total)}</span>{cores}{rest}</p>' + _live_bars(reading) + "</section>"
    )


def _live_bars(reading: MemoryReading) -> str:
    if not reading.cores:
        return ""
    fullest = max(reading.cores, key=lambda use: use.total)
    columns = [(str(use.core), _purposes(use)) for use in reading.cores]
    label = (
        f"This process holds {_size(reading.total)} on {len(reading.cores)} NeuronCores; the fullest, core {fullest.core}, "
        f"{_size(fullest.total)} of {_size(CORE_BYTES)}."
    )
    return _bars(columns, _purposes(fullest), f"core {fullest.core}, the fullest", label)


def _verdict(plan: Plan) -> str:
    pair = f"{html.escape(plan.target.name)} with {html.escape(plan.draft.name)}"
    where = f"{html.escape(plan.instance.name)}, {plan.dtype}, {plan.n_positions} positions"
    if plan.ok:
        return (
            f'<p class="verdict yes"><span class="figure">tp_degree {plan.tp_degree}</span> for both'
            f"<small>{pair} on {where}</small></p>"
        )
    reasons = "".join(f"<li>{html.escape(refusal)}</li>" for refusal in plan.refusals)
    return (
        f'<div class="verdict no"><span class="figure">Cannot work</span>'
        f"<small>{pair} on {where}</small><ul>{reasons}</ul></div>"
    )


def _models_table(plan: Plan) -> str:
    def row(role: str, model: ModelPlan) -> str:
        least = "none here" if model.min_tp_degree is None else f"{model.min_tp_degree}"
        return (
            f'<tr><th scope="row">{role}<small>{html.escape(model.name)}</small></th>'
            f"<td>{model.num_parameters / 1e9:.2f} B</td><td>{_size(model.weights_bytes)}</td>"
            f"<td>{_size(model.kv_bytes)}</td><td>{_size(model.memory_bytes)}</td>"
            f"<td>{model.cores_phrase}</td><td>{least}</td></tr>"
        )

    allowed = ", ".join(
        f"{degree} (doubtful)" if degree in plan.instance.doubtful else str(degree)
        for degree in plan.instance.all_degrees
    )
    facts = (
        f"{html.escape(plan.instance.name)}: {plan.instance.num_cores} NeuronCores, {plan.instance.device_gib} GiB; "
        f"its topology allows tp_degree {allowed}."
        if plan.instance.num_cores
        else ""
    )
    return (
        f'<p>{facts}</p><div class="scroll" tabindex="0"><table><thead><tr><th scope="col">model</th>'
        '<th scope="col">parameters</th><th scope="col">weights</th><th scope="col">KV cache</th>'
        f'<th scope="col">in memory</th><th scope="col">of {plan.instance.core_gb} GB cores</th><th scope="col">tp_degree, at least</th></tr>'
        f"</thead><tbody>{row('target', plan.target)}{row('draft', plan.draft)}"
        f'<tr><th scope="row">pair</th><td></td><td></td><td></td><td>{_size(plan.pair_bytes)}</td><td></td><td></td></tr>'
        "</tbody></table></div>"
    )


def _planned_bars(instance: Instance, tp_degree: int, core: CoreMemory) -> str:
    parts = [
        Part("target-weights", "target weights", core.target_weights),
        Part("target-kv", "target KV cache", core.target_kv),
        Part("draft-weights", "draft weights", core.draft_weights),
        Part("draft-kv", "draft KV cache", core.draft_kv),
        Part("working", "working memory (estimate)", core.working),
    ]
    columns = [(str(number), parts if number < tp_degree else []) for number in range(instance.num_cores)]
    label = (
        f"Each of {tp_degree} cores would hold {_size(core.total)} of {_size(core.capacity)}: "
        + ", ".join(f"{part.name} {_size(part.size)}" for part in parts)
        + "."
    )
    return _bars(columns, parts, "each used core", label, core.capacity)


def _bars(
    columns: Sequence[tuple[str, Sequence[Part]]],
    legend: Sequence[Part],
    whose: str,
    label: str,
    capacity: int = CORE_BYTES,
) -> str:
    """A column for each core, its parts stacked; the dashed line is what a core has."""
    highest = max([capacity, *(sum(part.size for part in parts) for _, parts in columns)])

    def height(size: int) -> str:
        return f"{100 * size / highest:.2f}%"

    drawn = "".join(
        f'<div class="core{"" if parts else " idle"}" title="core {number}">'
        + "".join(f'<i class="m-{part.kind}" style="height:{height(part.size)}"></i>' for part in parts)
        + "</div>"
        for number, parts in columns
    )
    total = sum(part.size for part in legend)
    keys = "".join(
        f'<li><i class="m-{part.kind}"></i>{html.escape(part.name)} <b>{_size(part.size)}</b></li>' for part in legend
    )
    return (
        f'<figure class="memory" role="group" aria-label="{html.escape(label)}"><div class="cores" aria-hidden="true">{drawn}'
        f'<span class="limit" style="bottom:{height(capacity)}">what a core has</span></div>'
        f"<figcaption>{html.escape(whose)}: <b>{_size(total)}</b> of {_size(capacity)}"
        f'<ul class="keys">{keys}</ul></figcaption></figure>'
    )


def _purposes(use: CoreUse) -> list[Part]:
    parts = [Part(f"use-{i}", name.replace("_", " "), getattr(use, name)) for i, name in enumerate(PURPOSES)]
    return [part for part in parts if part.size or not part.kind.endswith(OTHER)]


def _notes(title: str, sentences: Sequence[str], kind: str = "") -> str:
    if not sentences:
        return ""
    return (
        f'<div class="{kind}"><h4>{title}</h4><ul>{"".join(f"<li>{html.escape(s)}</li>" for s in sentences)}</ul></div>'
    )


def _steps(steps: Sequence[str]) -> str:
    if not steps:
        return ""
    return f"<div><h4>Load order</h4><ol>{''.join(f'<li>{html.escape(step)}</li>' for step in steps)}</ol></div>"


def _size(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 10**6:.0f} MB"


# --- the components ---


def build(monitor: MemoryMonitor | None = None) -> None:
    """Put the tab's components into the Blocks context it is called in.

    monitor: where live memory is read; one of this process's own where None. It starts neuron-monitor, if there is
    one, when the first visitor is there.
    """
    monitor = monitor or MemoryMonitor()
    gr.HTML(f"<style>{_STYLE}</style>", apply_default_css=False, elem_id="hw-style")
    with gr.Row(elem_id="hardware", equal_height=False):
        with gr.Column(scale=0, min_width=292, elem_id="hw-knobs"):
            instance = gr.Dropdown(
                [(_instance_label(each), each.name) for each in INSTANCES.values()],
                value=_INSTANCE,
                label="Instance",
                filterable=False,
                elem_id="hw-instance",
            )
            target = gr.Dropdown(list(MODELS), value=_TARGET, label="Target", filterable=False, elem_id="hw-target")
            draft = gr.Dropdown(list(MODELS), value=_DRAFT, label="Draft", filterable=False, elem_id="hw-draft")
            library = gr.Dropdown(
                list(LIBRARIES), value=LIBRARIES[0], label="Library", filterable=False, elem_id="hw-library"
            )
            dtype = gr.Radio(list(DTYPE_BYTES), value=_DTYPE, label="Precision", elem_id="hw-dtype")
            n_positions = gr.Number(
                _N_POSITIONS,
                label="Positions",
                info="The longest sequence, prompt and answer; the KV cache grows with it.",
                precision=0,
                minimum=2,
                elem_id="hw-positions",
            )
            with gr.Accordion("Judge degrees of your own", open=False):
                target_tp = gr.Dropdown(
                    _degree_choices(RECOMMENDED), value=RECOMMENDED, label="Target's tp_degree", filterable=False
                )
                draft_tp = gr.Dropdown(_degree_choices(SAME), value=SAME, label="Draft's tp_degree", filterable=False)
        with gr.Column(scale=1, min_width=320):
            knobs: list[Any] = [instance, target, draft, dtype, n_positions, target_tp, draft_tp, library]
            shown = gr.HTML(
                planned(*[knob.value for knob in knobs]), apply_default_css=False, elem_id="hw-plan", container=False
            )
            memory = gr.HTML(_EMPTY, apply_default_css=False, elem_id="hw-memory", container=False)
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    gr.on([knob.change for knob in knobs], planned, knobs, shown, **quiet)
    timer = gr.Timer(SECONDS_BETWEEN_READINGS)
    timer.tick(_reader(monitor), None, memory, **quiet)


def planned(
    instance: str,
    target: str,
    draft: str,
    dtype: str,
    n_positions: float | None,
    target_tp: str | int,
    draft_tp: str | int,
    library: str = LIBRARIES[0],
) -> str:
    """The tab's plan for its knobs; a value that cannot work becomes a sentence. Models by catalogue name only:
    what a visitor sends is not taken for a path."""
    try:
        for name in (target, draft):
            if name not in MODELS:
                raise PlaygroundError(f"There is no model {name!r} here; choose one of {', '.join(MODELS)}.")
        return plan_html(
            plan(
                instance,
                MODELS[target],
                MODELS[draft],
                dtype,
                int(n_positions or 0),
                target_tp=_degree(target_tp),
                draft_tp=_degree(draft_tp),
                library=library,
            )
        )
    except PlaygroundError as error:
        return error_html(str(error))


def _reader(monitor: MemoryMonitor) -> Callable[[], str]:
    def read() -> str:
        return memory_html(monitor.read())

    return read


def _degree(chosen: str | int) -> int | None:
    return None if chosen in (RECOMMENDED, SAME) else int(chosen)


def _degree_choices(first: str) -> list[str | int]:
    degrees = sorted({degree for instance in INSTANCES.values() for degree in instance.all_degrees})
    return [first, *degrees]


def _instance_label(instance: Instance) -> str:
    if not instance.num_cores:
        return f"{instance.name} · not supported"
    return f"{instance.name} · {instance.num_cores} cores, {instance.device_gib} GiB"


_EMPTY = '<section class="pg hw live"><h4>Memory of this process</h4><p class="fine">A reading comes in a moment.</p></section>'

# The colours are the page's own; a hatch of its own tells each part apart without them.
_STYLE = """
.hw { display: grid; gap: 14px; grid-template-columns: minmax(0, 1fr); }
.hw.live { margin-top: 18px; padding-top: 14px; border-top: 1px solid var(--line); }
.hw .verdict { margin: 0; padding: 10px 16px; border: 1px solid var(--line); border-left-width: 6px; border-radius: 10px; background: var(--panel); font-size: 17px; }
.hw .verdict.yes { border-left-color: var(--accepted); }
.hw .verdict.no { border-left-color: var(--rejected); border-left-style: double; }
.hw .verdict small, .hw th small { display: block; color: var(--muted); font-size: 14px; font-weight: 400; }
.hw .figure { font-size: 34px; font-weight: 700; letter-spacing: -0.02em; }
.hw .verdict.no .figure { color: var(--rejected); font-size: 26px; }
.hw .verdict.yes .figure { color: var(--accepted); }
.hw ul, .hw ol { margin: 4px 0 0; padding-left: 22px; }
.hw ul { list-style: disc; } .hw ol { list-style: decimal; }
.hw li { margin: 3px 0; }
.hw .warning { border-left: 4px dashed var(--corrected); padding-left: 12px; }
.hw .fine { color: var(--muted); font-size: 13.5px; max-width: 78ch; }
.hw .scroll { overflow-x: auto; }
.hw table { border-collapse: collapse; width: 100%; font-size: 14.5px; }
.hw th, .hw td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
.hw th:first-child { text-align: left; } .hw thead th { color: var(--muted); font-weight: 500; }
.hw figure { margin: 0; }
.hw .cores { position: relative; display: flex; align-items: flex-end; gap: 2px; height: 170px; border-bottom: 2px solid var(--muted); background: var(--ground); border-radius: 6px 6px 0 0; }
.hw .core { flex: 1 1 0; min-width: 2px; max-width: 90px; height: 100%; display: flex; flex-direction: column-reverse; }
.hw .core.idle { background: repeating-linear-gradient(135deg, transparent 0 5px, var(--line) 5px 6px); }
.hw .core i { display: block; }
.hw .limit { position: absolute; left: 0; right: 0; height: 0; border-top: 2px dashed var(--rejected); color: var(--rejected); font-size: 12.5px; text-align: right; }
.hw figcaption { margin-top: 8px; }
.hw .keys { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; padding: 0; font-size: 14px; }
.hw .keys i { display: inline-block; width: 15px; height: 15px; border-radius: 3px; margin-right: 6px; vertical-align: -2px; }
@media (max-width: 700px) { #hw-knobs { flex: 1 1 100% !important; } }
.hw .m-target-weights, .hw .m-use-0 { background: var(--target); }
.hw .m-target-kv, .hw .m-use-3 { background: repeating-linear-gradient(45deg, var(--target) 0 3px, var(--panel) 3px 5px); }
.hw .m-draft-weights, .hw .m-use-1 { background: var(--draft); }
.hw .m-draft-kv, .hw .m-use-4 { background: repeating-linear-gradient(-45deg, var(--draft) 0 3px, var(--panel) 3px 5px); }
.hw .m-use-5 { background: repeating-linear-gradient(0deg, var(--muted) 0 2px, var(--panel) 2px 5px); }
.hw .m-working, .hw .m-use-2 { background: repeating-linear-gradient(90deg, var(--host) 0 2px, var(--panel) 2px 5px); }
"""
