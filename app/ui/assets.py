"""The page's scripts and styles, as text. They are put into the document itself: the page and an exported file alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "assets"
WEB = FOLDER / "web"
REPLAYS = FOLDER / "replays"


def script() -> str:
    """The page's scripts in one piece."""
    names = ("trace.js", "tokens.js", "playground.js", "rounds.js", "tune.js")
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)


def first_script() -> str:
    """What has to run before Gradio's own scripts."""
    return (WEB / "frame_throttle.js").read_text(encoding="utf-8")


def style() -> str:
    """The page's styles."""
    return (WEB / "playground.css").read_text(encoding="utf-8")


def json_for_html(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII, and no `<` that could end it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
