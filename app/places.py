"""Where the program's own files lie: beside `app/` in a checkout, inside it where the package is installed."""

from __future__ import annotations

import os
from pathlib import Path

_APP = Path(__file__).resolve().parent
INSTALLED = (_APP / "assets").is_dir()
ASSETS = (_APP if INSTALLED else _APP.parent) / "assets"
"""The page's scripts and styles, the embedded draft, example prompts, recorded runs."""
COMMAND = "speculative-playground" if INSTALLED else "./launch.sh"
"""What a person types to run the program."""


def home() -> Path:
    """Where what is fetched and made is kept: the checkout, or this person's cache folder."""
    if not INSTALLED:
        return _APP.parent
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speculative-playground"


def models_dir() -> Path:
    """Where fetched models and what is made from them are kept; PLAYGROUND_MODELS moves it."""
    return Path(os.environ.get("PLAYGROUND_MODELS") or home() / "models")


def cache_dir() -> Path:
    """Where graphs and metadata made from models are kept."""
    return models_dir() / "cache"
