"""Arguments and output whatever the locale: bytes that are no UTF-8, characters that a terminal's encoding lacks."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Any

from app.errors import RequestError


def print_anything() -> None:
    """From here on what standard output or error cannot encode is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, their texts being text. Paths may be any bytes. Raises RequestError."""
    for name, value in vars(options).items():
        if isinstance(value, str):
            setattr(options, name, text_of(value, f"--{name.replace('_', '-')}"))
        elif isinstance(value, list | tuple):
            texts: Any = [
                text_of(each, f"--{name.replace('_', '-')}") if isinstance(each, str) else each for each in value
            ]
            setattr(options, name, type(value)(texts))
    return options


def text_of(value: str, where: str) -> str:
    """What the system handed over, read as UTF-8 whatever its locale says. Raises RequestError where it is none."""
    try:
        value.encode()
        return value
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(value).decode()
    except UnicodeError:
        raise RequestError(f"{where} holds bytes that are no UTF-8 text: {value!a}; write it in UTF-8.") from None
