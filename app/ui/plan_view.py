"""The Neuron plan with memory per core as stacked bars, and live memory. Pure: plan or reading -> escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from app.neuron.catalogue import CORE_BYTES, Instance
from app.neuron.memory import GB, CoreMemory
from app.neuron.monitor import PURPOSES, CoreUse, MemoryReading
from app.neuron.plan import ModelPlan, Plan

OTHER = f"use-{PURPOSES.index('other')}"  # shown only where neuron-monitor names a purpose that is not known here


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
        + '<p class="fine">Sizes are 10⁹ bytes. Weights and KV cache are computed, padded and '
        "replicated heads included. "
        "Working memory (code, scratch, runtime) is our estimate of 0.7 GB per core and model, fitted to six published "
        "figures of transformers-neuronx; a model's size counts it over all cores of the instance, "
        "as neuron-top would show it.</p></section>"
    )


def error_html(message: str) -> str:
    """A sentence in the plan's place."""
    return f'<section class="pg hw" aria-live="polite"><p class="verdict no">{html.escape(message)}</p></section>'


def memory_html(reading: MemoryReading, capacity: int = CORE_BYTES) -> str:
    """Live memory: per core, which has `capacity` bytes, on a Neuron machine; the process's elsewhere, and why."""
    if not reading.on_device:
        return (
            '<section class="pg hw live"><h2>Memory of this process</h2>'
            f'<p><span class="figure">{_size(reading.total)}</span></p>'
            f'<p class="fine">{html.escape(reading.note)}</p></section>'
        )
    cores = f" on {len(reading.cores)} NeuronCores" if reading.cores else ""
    rest = f", {_size(reading.unattributed)} of it not told core by core" if reading.unattributed else ""
    return (
        '<section class="pg hw live"><h2>Device memory of this process, live</h2>'
        f'<p><span class="figure">{_size(reading.total)}</span>{cores}{rest}</p>'
        + _live_bars(reading, capacity)
        + "</section>"
    )


def _live_bars(reading: MemoryReading, capacity: int) -> str:
    if not reading.cores:
        return ""
    fullest = max(reading.cores, key=lambda use: use.total)
    columns = [(str(use.core), _purposes(use)) for use in reading.cores]
    label = (
        f"This process holds {_size(reading.total)} on {len(reading.cores)} NeuronCores; the "
        f"fullest, core {fullest.core}, "
        f"{_size(fullest.total)} of {_size(capacity)}."
    )
    return _bars(columns, _purposes(fullest), f"core {fullest.core}, the fullest", label, capacity)


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
        f"{html.escape(plan.instance.name)}: {plan.instance.num_cores} NeuronCores, "
        f"{_size(plan.instance.device_bytes)} "
        f"(published as {plan.instance.device_gib:,} GiB); "
        f"its topology allows tp_degree {allowed}."
        if plan.instance.num_cores
        else ""
    )
    return (
        f'<p>{facts}</p><div class="scroll" tabindex="0"><table><thead><tr><th scope="col">model</th>'
        '<th scope="col">parameters</th><th scope="col">weights</th><th scope="col">KV cache</th>'
        f'<th scope="col">in memory</th><th scope="col">of {plan.instance.core_gb} GB cores</th><th '
        'scope="col">tp_degree, at least</th></tr>'
        f"</thead><tbody>{row('target', plan.target)}{row('draft', plan.draft)}"
        "<tr><th "
        f'scope="row">pair</th><td></td><td></td><td></td><td>{_size(plan.pair_bytes)}</td><td></td><td></td></tr>'
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
        f'<figure class="memory" role="group" aria-label="{html.escape(label)}"><div class="cores" '
        f'aria-hidden="true">{drawn}'
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
        f'<div class="{kind}"><h2>{title}</h2><ul>{"".join(f"<li>{html.escape(s)}</li>" for s in sentences)}</ul></div>'
    )


def _steps(steps: Sequence[str]) -> str:
    if not steps:
        return ""
    return f"<div><h2>Load order</h2><ol>{''.join(f'<li>{html.escape(step)}</li>' for step in steps)}</ol></div>"


def _size(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 10**6:.0f} MB"
