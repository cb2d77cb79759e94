"""`export`: a trace file to one self-contained HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli import flags
from app.record.trace_files import open_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, help="a .jsonl file exported by this playground")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the trace's name with .html")


def main(options: argparse.Namespace) -> int:
    from app.ui.export import export_html

    out = options.out or options.trace.with_suffix(".html")
    flags.write_text(out, export_html(open_trace(options.trace)), "The page")
    print(out)
    return 0
