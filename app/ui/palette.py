"""The palette by meaning: the one table of the page's colours on this side. `assets/web/palette.css` is the other; a
test holds the two together."""

from __future__ import annotations

LIGHT: dict[str, str] = {
    "ink": "#14202b",
    "muted": "#55626e",
    "line": "#d8dee4",
    "panel": "#ffffff",
    "ground": "#f5f7f8",
    "accepted": "#00785a",
    "accepted-wash": "#d3f0e4",
    "corrected": "#b23f00",
    "corrected-wash": "#ffe3d1",
    "bonus": "#1d4fd8",
    "bonus-wash": "#dde7ff",
    "target": "#66717c",
    "rejected": "#a3264f",
    "discarded": "#6b6470",
    "draft": "#7a4fb5",
    "verify": "#00785a",
    "host": "#8b949c",
}
DARK: dict[str, str] = {
    "ink": "#e9eef2",
    "muted": "#a3afba",
    "line": "#2d3741",
    "panel": "#151b21",
    "ground": "#0d1216",
    "accepted": "#4ad6a7",
    "accepted-wash": "#12382d",
    "corrected": "#ff9c5b",
    "corrected-wash": "#43240f",
    "bonus": "#86abff",
    "bonus-wash": "#1b2b57",
    "target": "#97a3ae",
    "rejected": "#ff86ab",
    "discarded": "#a79fae",
    "draft": "#c3a2f5",
    "verify": "#4ad6a7",
    "host": "#77828c",
}
GREEN = (
    "#ecf9f4", "#d3f0e4", "#a9e2cc", "#6fcfac", "#2fae85", "#00785a", "#006a50", "#005843", "#004635", "#003629", "#00261d",
)  # fmt: skip
"""What Gradio mixes its own components from, light to dark; the page's green is the sixth."""
