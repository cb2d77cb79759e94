"""`export`: a trace file to one self-contained HTML page, or several to a static site."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.cli import flags
from app.errors import RequestError
from app.record.trace_files import open_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "trace", type=Path, nargs="*", help="a .jsonl file exported by this playground; several with --site"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the trace's name with .html")
    parser.add_argument(
        "--site",
        type=Path,
        metavar="DIR",
        help="write a static site of these traces (default: the recorded runs that come with the playground) to DIR",
    )


def main(options: argparse.Namespace) -> int:
    if options.site is not None:
        return _site(options.site, options.trace, options.out)
    from app.ui.export import export_html

    if len(options.trace) != 1:
        raise RequestError("export takes one trace; give several with --site DIR.")
    (path,) = options.trace
    out = options.out or path.with_suffix(".html")
    flags.write_text(out, export_html(open_trace(path)), "The page")
    print(out)
    return 0


def _site(folder: Path, traces: list[Path], out: Path | None) -> int:
    from app.ui.assets import REPLAYS
    from app.ui.site import INDEX, site

    if out is not None:
        raise RequestError("--out names one page and --site a folder; give one of them.")
    paths = traces or sorted(REPLAYS.glob("*.jsonl"))
    files = site({path.stem: open_trace(path) for path in paths})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder} cannot be made ({error.strerror}); choose another folder.") from None
    for name, text in files.items():
        flags.write_text(folder / name, text, "The site")
    print(folder / INDEX)
    return 0
