"""Hand-written beginnings of instructions, by category: `openers.json` holds them, the target writes the rest itself.

A `PASSAGES` opener asks for a text to be given within the instruction: one of the target's earlier answers is put
in for {passage}. As long as there are none, the target writes that text too, after what stands before {passage}.
`FILLS` are dropped into the openers that name them, to spread what is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TEXTS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def _by_name(part: str) -> dict[str, tuple[str, ...]]:
    return {name: tuple(texts) for name, texts in _TEXTS[part].items()}


OPENERS = _by_name("openers")
PASSAGES = _by_name("passages")
FILLS = {f"{{{name}}}": texts for name, texts in _by_name("fills").items()}
"""By the place that they fill, braces included."""
WEIGHTS: tuple[float, ...] = tuple(
    share for part in ("openers", "passages") for share in _TEXTS["shares"][part].values()
)
"""Shares of the categories in what is asked: OPENERS in order, then PASSAGES."""
