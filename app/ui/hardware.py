"""The Hardware tab: the Neuron planner's knobs, its plan, and live memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.errors import PlaygroundError
from app.neuron.catalogue import CORE_BYTES, INSTANCES, LIBRARIES, MODELS, Instance, product_name
from app.neuron.memory import DTYPE_BYTES, GB
from app.neuron.monitor import MemoryMonitor
from app.neuron.plan import plan
from app.ui.plan_view import error_html, memory_html, plan_html

SECONDS_BETWEEN_READINGS = 5  # as often as neuron-monitor reports
RECOMMENDED, SAME = "recommended", "same as the target's"
_INSTANCE, _TARGET, _DRAFT, _DTYPE, _N_POSITIONS = "trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048


def build(monitor: MemoryMonitor | None = None) -> None:
    """Put the tab's components into the Blocks context it is called in.

    monitor: where live memory is read; one of this process's own where None. It starts neuron-monitor, if there is
    one, when the first visitor is there.
    """
    monitor = monitor or MemoryMonitor()
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
    here = INSTANCES.get(product_name())
    capacity = CORE_BYTES if here is None else here.core_bytes

    def read() -> str:
        return memory_html(monitor.read(), capacity)

    return read


def _degree(chosen: str | int) -> int | None:
    return None if chosen in (RECOMMENDED, SAME) else int(chosen)


def _degree_choices(first: str) -> list[str | int]:
    degrees = sorted({degree for instance in INSTANCES.values() for degree in instance.all_degrees})
    return [first, *degrees]


def _instance_label(instance: Instance) -> str:
    return f"{instance.name} · {instance.num_cores} cores, {instance.device_bytes / GB:.0f} GB"


_EMPTY = (
    '<section class="pg hw live"><h2>Memory of this process</h2><p class="fine">A reading comes '
    "in a moment.</p></section>"
)
