"""Numbers of the command line, each within the bounds in which it means something.

As an argument's `type`, so that what cannot work is refused before anything is loaded; argparse names the flag.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

MANY = 1_000_000_000
"""More than anything that is counted here can be."""


def whole(least: int, most: int = MANY) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!a} is no whole number from {least} to {most}")
        return value

    return number


def real(above: float | None = None, *, least: float = 0.0, most: float, below: bool = False) -> Callable[[str], float]:
    """A number above `above`, or where that is None from `least`, and up to `most`, or below it. Never nan."""
    begin = f"from {least:g}" if above is None else f"above {above:g}"
    end = f"below {most:g}" if below else f"up to {most:g}"

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        low = value >= least if above is None else value > above
        if not low or not (value < most if below else value <= most):
            raise argparse.ArgumentTypeError(f"{text!a} is no number {begin} and {end}")
        return value

    return number
