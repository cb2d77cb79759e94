"""The head of the page: its name, what is loaded, and the switch between light and dark. Pure; returns escaped HTML."""

from __future__ import annotations

import html

from app.ui.session import Session

SCRIPT = "window.Playground.mountHeader(element)"
"""What the component runs as it is shown."""


def header_html(session: Session | None, engines: int = 1) -> str:
    """engines: how many runs there may be at once."""
    card = "" if session is None else _pair_card(session, engines)
    return (
        f'<header class="pg masthead"><h1>Speculative sampling</h1>{card}'
        '<button type="button" class="tool theme" aria-label="Switch between light and dark">◐</button></header>'
    )


def _pair_card(session: Session, engines: int) -> str:
    models = [("target", session.target), *([] if session.draft is None else [("draft", session.draft)])]
    parts = [
        f"<span><i>{role}</i> <b>{html.escape(card.name)}</b> {_count(card.num_parameters)}, "
        f"{html.escape(card.dtype)}, {_megabytes(card.memory)}</span>"
        for role, card in models
    ]
    parts.append(f"<span><i>on</i> <b>{html.escape(session.backend)}</b> {html.escape(session.device)}</span>")
    if engines > 1:
        parts.append(f"<span><i>engines</i> <b>{engines}</b> each a run at a time</span>")
    return f'<p class="pair-card">{"".join(parts)}</p>'


def _count(parameters: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g} {letter}"
    return str(parameters)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
