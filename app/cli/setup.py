"""`setup`: what the embedded pair needs beside the packages."""

from __future__ import annotations

import argparse
import sys

from app.pairs.fetching import fetch
from app.places import COMMAND


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def main(options: argparse.Namespace) -> int:
    fetch()
    print(f"Ready: {COMMAND}", file=sys.stderr)
    return 0
