"""A folder of recorded runs for any static host: an index and a page a run, the page's own views, no Python and no
server."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from app.record.conversation import asked
from app.record.metrics import Metrics
from app.record.trace import RunStarted, Trace
from app.ui.assets import file_script, file_style
from app.ui.export import document, run_body, title_of
from app.ui.render import verdict

INDEX, STYLE, SCRIPT = "index.html", "playground.css", "playground.js"
_HEAD = f'<link rel="stylesheet" href="{STYLE}">'
_LEAD = "A small model guesses ahead; the big one checks all guesses in one go. <b>Same answer, fewer passes.</b>"


def site(runs: Mapping[str, Trace]) -> dict[str, str]:
    """The files of the site, by name. runs: traces by name; a name that is no file's name is made one."""
    pages = {_page_name(name): trace for name, trace in runs.items()}
    back = f'<p class="back"><a href="{INDEX}">All runs</a></p>\n'
    scripts = f'<script src="{SCRIPT}"></script>'
    return {
        INDEX: document("Speculative sampling: recorded runs", _HEAD, _index(pages)),
        STYLE: file_style(),
        SCRIPT: file_script(),
        **{name: document(title_of(trace), _HEAD, run_body(trace, scripts, back)) for name, trace in pages.items()},
    }


def _page_name(name: str) -> str:
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    return f"{stem}.html"


def _index(pages: Mapping[str, Trace]) -> str:
    cards = "\n".join(_card(name, trace) for name, trace in pages.items())
    return f"""<main class="pg">
<h1>Speculative sampling</h1>
<p class="intro-lead">{_LEAD}</p>
<p class="intro-how">Recorded runs of a real pair. Each plays again in slow motion, with every round and token to look
into.</p> <nav class="tries" aria-label="Recorded runs">
{cards}
</nav>
</main>
<script src="{SCRIPT}"></script>
<script>Playground.dressFile();</script>"""


def _card(name: str, trace: Trace) -> str:
    started = next((event for event in trace if isinstance(event, RunStarted)), None)
    metrics = Metrics(trace)
    if started is None:
        return ""
    request = started.request
    loop = "upstream's own loop, a reference: " if started.engine == "upstream" else ""
    settings = f"{loop}T = {request.sampling.temperature:g}, acceptor {request.acceptor}, k = {request.k}"
    speedup = "" if metrics.speedup is None else f'<span class="try-figure">{metrics.speedup:.2f}×</span>'
    return (
        f'<a class="try" href="{name}"><span class="try-kind">{html.escape(settings)}</span>'
        f"<b>{html.escape(asked(request))}</b>{speedup}"
        f'<span class="try-watch">{html.escape(verdict(metrics)["text"])}</span></a>'
    )
