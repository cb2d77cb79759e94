"""Held-out prompts: what a draft is measured on, and what must never be in its training data."""

from __future__ import annotations

import json
from pathlib import Path

from app.errors import RequestError


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """(category, prompt) of a JSON list of such objects, or of a text file with a prompt a line. Raises
    RequestError."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [("prompts", line) for line in text.splitlines() if line.strip()]
        return [(str(entry["category"]), str(entry["prompt"])) for entry in json.loads(text)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is no list of prompts ({type(error).__name__}: {error}); give a JSON list of objects with "
            "category and prompt, or a text file with a prompt a line."
        ) from None
