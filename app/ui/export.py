"""A trace as one HTML page that needs no server: the page's own scripts and styles, and the trace, in one file."""

from __future__ import annotations

import html
from collections.abc import Iterable

from app.record.definitions import DEFINITIONS
from app.record.trace import Event, RunStarted, Trace
from app.ui.assets import file_script, file_style, json_for_html
from app.ui.render import items

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_ITEMS = "<!--items-->"
"""Stands for the items: what is escaped cannot hold it."""


def export_html(trace: Iterable[Event]) -> str:
    """One self-contained page of a trace: the page's token view, rounds and figures, from a file, with no server.

    With #embed at the end of its address it shows the run alone, for a frame in another page.
    """
    content = list(trace)
    before, after = frame(content)
    return f"{before}{json_for_html(items(content))}{after}"


def frame(trace: Trace) -> tuple[str, str]:
    """What stands before a run's items in its page, and after them. trace: its first event suffices."""
    page = document(
        title_of(trace),
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{file_style()}</style>',
        _body(title_of(trace), _ITEMS, f"<script>{file_script()}</script>"),
    )
    before, after = page.split(_ITEMS)
    return before, after


def document(title: str, head: str, body: str) -> str:
    """A page of these parts, its title escaped here."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
{head}
</head>
<body class="pg-file">
{body}
</body>
</html>
"""


def run_body(trace: Trace, scripts: str, before: str = "") -> str:
    """What shows a run: scripts are its elements, before stands above the title."""
    return _body(title_of(trace), json_for_html(items(trace)), scripts, before)


def _body(title: str, content: str, scripts: str, before: str = "") -> str:
    return f"""<main>
{before}<h1>{html.escape(title)}</h1>
<div id="pg-playground"></div>
<h2>Rounds</h2>
<div id="pg-rounds"></div>
</main>
<script type="application/json" id="pg-trace">{content}</script>
{scripts}
<script>Playground.openFile({json_for_html(DEFINITIONS)});</script>"""


def title_of(trace: Trace) -> str:
    """What the page of a run is called."""
    started = next((event for event in trace if isinstance(event, RunStarted)), None)
    if started is None:
        return "Speculative sampling"
    by = " by upstream's own loop, a reference" if started.engine == "upstream" else ""
    return f"Speculative sampling{by}: {started.pair}, k = {started.request.k}"
