"""The page's scripts and styles, as text. They are put into the document itself: the page and an exported file
alike."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.places import ASSETS

WEB = ASSETS / "web"
UPLOT = ASSETS / "uplot"
"""The library that draws the live plot."""
REPLAYS = ASSETS / "replays"

# Each script takes what it uses from those before it.
VIEW_SCRIPTS = (
    "run.js",
    "store.js",
    "format.js",
    "address.js",
    "sending.js",
    "run_facts.js",
    "preferences.js",
    "elements.js",
    "shelf.js",
    "terms.js",
    "headline.js",
    "race.js",
    "legend.js",
    "pane.js",
    "token_facts.js",
    "card.js",
    "tpot_plot.js",
    "picture.js",
    "files.js",
    "tour.js",
    "asked.js",
    "cards.js",
    "view.js",
    "minimap.js",
    "rounds.js",
)
"""What draws a run, in the page and in an exported file."""
PAGE_SCRIPTS = (
    *VIEW_SCRIPTS,
    "header.js",
    "prompt_count.js",
    "conversation.js",
    "knobs.js",
    "figures.js",
    "tune.js",
    "tabs.js",
    "present.js",
    "page.js",
    "chat.js",
    "history.js",
    "instruments.js",
)
FILE_SCRIPTS = (*VIEW_SCRIPTS, "present.js", "file.js")
FIRST_SCRIPT = "frame_throttle.js"
"""What has to run before Gradio's own scripts."""

VIEW_STYLES = (
    "palette.css",
    "base.css",
    "intro.css",
    "headline.css",
    "message.css",
    "tokens.css",
    "legend.css",
    "panes.css",
    "race.css",
    "tools.css",
    "plot.css",
    "card.css",
    "rounds.css",
    "tour.css",
)
PAGE_STYLES = (
    *VIEW_STYLES,
    "about.css",
    "chat.css",
    "tune.css",
    "instruments.css",
    "hardware.css",
    "masthead.css",
    "frame.css",
    "present.css",
    "print.css",
)
FILE_STYLES = (*VIEW_STYLES, "file.css", "present.css", "print.css")


def page_script() -> str:
    """The scripts of the page, in one piece."""
    return _script(PAGE_SCRIPTS)


def page_style() -> str:
    return _style(PAGE_STYLES)


def file_script() -> str:
    """The scripts of an exported file, in one piece."""
    return _script(FILE_SCRIPTS)


def file_style() -> str:
    return _style(FILE_STYLES)


def first_script() -> str:
    return _joined([WEB / FIRST_SCRIPT])


def model_card() -> str:
    """The embedded draft's, as Markdown; empty where there is none."""
    card = ASSETS / "draft" / "README.md"
    return card.read_text(encoding="utf-8") if card.exists() else ""


def cards() -> list[dict[str, Any]]:
    """What the page offers to try first: {"kind", "title", "watch", "settings"} each."""
    path = ASSETS / "cards.json"
    listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return listed


def plotly() -> Path:
    """Plotly's own script, as its package brings it."""
    import plotly  # type: ignore[import-untyped]

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def plotly_address() -> str:
    """Where the page's scripts fetch it from."""
    return f"gradio_api/file={plotly()}"


def json_for_html(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII, and no `<` that could end it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _script(names: Iterable[str]) -> str:
    return _joined([UPLOT / "uplot.min.js", *(WEB / name for name in names)])


def _style(names: Iterable[str]) -> str:
    return _joined([UPLOT / "uplot.min.css", *(WEB / name for name in names)])


def _joined(paths: Iterable[Path]) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
