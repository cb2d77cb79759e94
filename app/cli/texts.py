"""Arguments and output whatever the locale: bytes that are no UTF-8, characters that a terminal's encoding lacks."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from typing import Any

from app.errors import RequestError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a place that is full, or gone, says of a write to it."""


def print_anything() -> None:
    """From here on what standard output or error cannot encode is printed as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def written() -> None:
    """What was printed has gone out. Raises OSError where it cannot, now and not as the interpreter ends."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up_output() -> None:
    """What is left of the output goes nowhere: as the interpreter ends it would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
