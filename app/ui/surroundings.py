"""What the environment says to others than this program, put aside while Gradio is imported and starts. Stdlib only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_OTHERS = re.compile(r"(?i:\w+_proxy)|SSL_CERT_(FILE|DIR)|GRADIO_(?!TEMP_DIR$)\w+")
"""Proxies and certificates are for the rest of the world: Gradio makes HTTP clients of them as it is imported, fails
where their kind is new to it, and asks its own address through them. Its own settings are this program's flags."""


@contextmanager
def put_aside() -> Iterator[None]:
    """Without them."""
    aside = {name: os.environ.pop(name) for name in list(os.environ) if _OTHERS.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(aside)
