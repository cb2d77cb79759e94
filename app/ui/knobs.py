"""The knobs of the Playground tab, and the request they stand for."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.errors import RequestError
from app.record.conversation import messages_of
from app.record.limits import AUTO, DEFAULT_MAX_TOKENS, MAX_K, MIN_K, K, parse_k
from app.record.trace import Arms, Request, Sampling
from app.ui.session import AcceptorCard, Session

_DRAFTERS = {"draft": "draft model", "lookup": "lookup", "draft+lookup": "either, by the round"}
_ARMS = [("both, racing", "both"), ("target only", "target"), ("speculative only", "speculative")]

SLIDER_TOKENS = 2048
"""What the slider offers at most; programs may ask for more."""


def build_few(session: Session) -> tuple[Any, Any]:
    """The two that a first run needs, beside the prompt: k and temperature."""
    with gr.Row(elem_id="few"):
        k = _window_knob(session)
        temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature", min_width=150, elem_id="temperature")
    return k, temperature


def build_more(session: Session, k: Any, temperature: Any, most_tokens: int | None = None) -> list[Any]:
    """All knobs, in the order of `NAMES`; the ones not given are put where this is called. most_tokens: what a run may
    have."""
    most = min(most_tokens or SLIDER_TOKENS, SLIDER_TOKENS)
    with gr.Row(elem_id="more"):
        with gr.Column(min_width=260):
            auto = gr.Checkbox(
                False,
                label="Choose k while running (auto)",
                info="Drafts on while the draft is sure enough for what a pass costs here; it may stop drafting.",
                visible=session.draft is not None,
                elem_id="auto-k",
            )
            max_tokens = gr.Slider(
                1,
                most,
                min(DEFAULT_MAX_TOKENS, most),
                step=1,
                label="Max tokens",
                info="Where both answers end.",
                elem_id="max",
            )
            arms = gr.Radio(
                _ARMS,
                value="both",
                label="Arms",
                info="They take turns on the device, each on its own clock.",
                elem_id="arms",
            )
        with gr.Column(min_width=260):
            acceptor = _acceptor_knob(session)
            drafter = gr.Radio(
                **drafters(session),
                label="Drafter",
                info="Lookup copies what followed the last tokens before: for answers that repeat the prompt.",
                elem_id="drafter",
            )
        with gr.Column(min_width=260):
            top_p = gr.Slider(
                0.05, 1, 1, step=0.05, label="top_p", info="Only the likeliest tokens up to this sum. 1: all."
            )
            top_k = gr.Slider(0, 200, 0, step=1, label="top_k", info="Only so many of the likeliest tokens. 0: all.")
            seed = gr.Number(0, label="Seed", info="The same seed draws the same text again.", precision=0, minimum=0)
        with gr.Column(min_width=260):
            system = gr.Textbox("", label="System prompt", info="Empty: the model's own.", lines=2, elem_id="system")
            chat_template = gr.Checkbox(**template(session), label="Chat template", elem_id="chat-template")
    # what auto chooses is not for the slider to say
    auto.change(
        lambda on: gr.update(interactive=not on), auto, k, queue=False, show_progress="hidden", api_visibility="private"
    )
    return [k, max_tokens, temperature, top_p, top_k, seed, acceptor, drafter, arms, system, chat_template, auto]


NAMES = (
    "k",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "acceptor",
    "drafter",
    "arms",
    "system",
    "chat_template",
    "auto",
)


def described(session: Session, prompt: str, controls: Sequence[Any]) -> dict[str, Any]:
    """What the page's script has to know of the knobs: their order, first values, choices and the range of k."""
    defaults: dict[str, Any] = {"prompt": prompt} | {
        name: control.value for name, control in zip(NAMES, controls, strict=True)
    }
    only = None if session.windows is None else _windows(session)
    return {
        "names": ["prompt", *NAMES],
        "defaults": defaults,
        "choices": {
            "acceptor": [each.name for each in session.acceptors],
            "drafter": list(_DRAFTERS),
            "arms": [value for _, value in _ARMS],
        },
        "k": {"least": MIN_K, "most": min(MAX_K, session.max_k), "only": only},
        "auto": session.draft is not None,
    }


def _window_knob(session: Session) -> Any:
    if session.windows is None:
        most = min(MAX_K, session.max_k)
        return gr.Slider(MIN_K, most, session.default_k, step=1, label="Window k", min_width=150, elem_id="k")
    return gr.Radio(_windows(session), value=_first_window(session), label="Window k", min_width=150, elem_id="k")


def _windows(session: Session) -> list[int]:
    """The windows there are."""
    if session.windows is None:
        return list(range(MIN_K, min(MAX_K, session.max_k) + 1))
    return [window for window in session.windows if window >= MIN_K]


def _first_window(session: Session) -> int:
    known = _windows(session)
    return session.default_k if session.default_k in known else known[0]


def of_pair(session: Session, controls: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the knobs whose choices are the pair's become once it is loaded, by name. controls: all knobs, by name."""
    windows = {"choices": _windows(session)} if isinstance(controls["k"], gr.Radio) else {}
    k = {} if session.windows is None and not windows else {**windows, "value": _first_window(session)}
    auto = {"visible": session.draft is not None}
    return {"k": k, "drafter": drafters(session), "auto": auto, "chat_template": template(session)}


def template(session: Session) -> dict[str, Any]:
    """The chat template's box: off, and not to be had, where the model brings none."""
    if session.has_chat_template:
        return {"value": True, "interactive": True, "info": "Off: the model continues the prompt as it is."}
    return {
        "value": False,
        "interactive": False,
        "info": "This model brings no chat template, so it continues the prompt as it is.",
    }


def _acceptor_knob(session: Session) -> gr.Dropdown:
    names = [(f"{each.name} · {'lossless' if each.lossless else 'lossy'}", each.name) for each in session.acceptors]
    first = session.acceptors[0].name
    acceptor = gr.Dropdown(names, value=first, label="Acceptor", filterable=False, elem_id="acceptor")
    notes = {each.name: _acceptor_note(each) for each in session.acceptors}
    note = gr.HTML(notes[first], apply_default_css=False, elem_id="acceptor-note")
    acceptor.change(notes.get, acceptor, note, queue=False, show_progress="hidden", api_visibility="private")
    return acceptor


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
    *,
    messages: tuple[dict[str, str], ...] = (),
) -> Request:
    """The knobs as a request. auto: k is chosen round by round. messages: earlier turns. Sliders give floats and an
    emptied number None."""
    return Request(
        prompt=prompt or "",
        system=system or "",
        messages=messages,
        chat_template=chat_template,
        max_tokens=int(max_tokens),
        k=AUTO if auto else _window(k),
        sampling=Sampling(float(temperature), float(top_p), int(top_k), int(seed or 0)),
        acceptor=acceptor,
        drafter=drafter,
        arms=arms,
    )


def messages_in(turns: Any) -> tuple[dict[str, str], ...]:
    """The turns before the prompt, as the browser writes them. Raises RequestError."""
    try:
        return messages_of(json.loads(turns or "[]"))
    except (TypeError, ValueError, RecursionError):
        raise RequestError("The conversation cannot be read; begin a new one.") from None
