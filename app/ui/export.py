"""A trace as one HTML page that needs no server: the page's own scripts and styles, and the trace, in one file."""

from __future__ import annotations

import html
from collections.abc import Iterable

from app.record.definitions import DEFINITIONS
from app.record.trace import Event, RunStarted
from app.ui.assets import file_script, file_style, json_for_html
from app.ui.render import items


def export_html(trace: Iterable[Event]) -> str:
    """One self-contained page of a trace: the page's token view, rounds and figures, from a file, with no server."""
    content = list(trace)
    started = next((event for event in content if isinstance(event, RunStarted)), None)
    title = "Speculative sampling" if started is None else _title(started)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{html.escape(title)}</title>
<style>{file_style()}</style>
</head>
<body class="pg-file">
<main>
<h1>{html.escape(title)}</h1>
<div id="pg-playground"></div>
<h2>Rounds</h2>
<div id="pg-rounds"></div>
</main>
<script type="application/json" id="pg-trace">{json_for_html(items(content))}</script>
<script>{file_script()}</script>
<script>Playground.openFile({json_for_html(DEFINITIONS)});</script>
</body>
</html>
"""


def _title(started: RunStarted) -> str:
    by = " by upstream's own loop, a reference" if started.engine == "upstream" else ""
    return f"Speculative sampling{by}: {started.pair}, k = {started.request.k}"
