"""The knobs of the Playground tab, and the request they stand for."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from app.errors import RequestError
from app.record.limits import AUTO, MAX_K, MIN_K, K, parse_k
from app.record.trace import Arms, Request, Sampling
from app.ui.session import AcceptorCard, Session

_DRAFTERS = {"draft": "draft model", "lookup": "lookup", "draft+lookup": "either, by the round"}
_ARMS = [("both, racing", "both"), ("target only", "target"), ("speculative only", "speculative")]


def build(session: Session) -> list[Any]:
    """Components in the order of `request_of`'s arguments after the prompt's."""
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
        **drafters(session),
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


def drafters(session: Session) -> dict[str, Any]:
    """What the drafter's knob offers for this pair."""
    choices = [(_DRAFTERS.get(name, name), name) for name in session.drafters]
    return {"choices": choices, "value": session.drafters[0]}


def _acceptor_note(card: AcceptorCard) -> str:
    same = " Both arms print the same text at any temperature." if card.same_text else ""
    mark = "lossless" if card.lossless else "lossy"
    return f'<p class="pg note"><b class="{mark}">{mark}</b> {html.escape(card.description)}{same}</p>'


def _window(k: float | str) -> K:
    try:
        return parse_k(k) if isinstance(k, str) else int(k)
    except ValueError:
        raise RequestError(f"{k!r} is no window; choose a whole number such as 4, or auto.") from None


def request_of(
    prompt: str,
    k: float | str,
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
        k=AUTO if auto else _window(k),
        sampling=Sampling(float(temperature), float(top_p), int(top_k), int(seed or 0)),
        acceptor=acceptor,
        drafter=drafter,
        arms=arms,
    )
