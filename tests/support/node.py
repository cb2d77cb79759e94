"""Node, which Playwright's package brings: nothing else has to be installed to run scripts outside a browser."""

from __future__ import annotations

from importlib.resources import files


def node() -> str:
    """The program's path."""
    return str(files("playwright").joinpath("driver", "node"))
