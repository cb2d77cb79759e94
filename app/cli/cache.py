"""`cache`: what is kept on disk of models, and how to be rid of it."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from app.errors import RequestError
from app.places import cache_dir, models_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clear", action="store_true", help="delete what was made from models; it is made again when needed"
    )
    parser.add_argument("--clear-models", action="store_true", help="delete the models fetched from the Hub as well")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def main(options: argparse.Namespace) -> int:
    made, hub = _entries(cache_dir()), _entries(models_dir() / "hub")
    gone = [*(made if options.clear or options.clear_models else []), *(hub if options.clear_models else [])]
    if options.json:
        rows = [{"path": str(path), "bytes": _size(path), "cleared": path in gone} for path in (*made, *hub)]
        print(json.dumps({"entries": rows}))
    else:
        for title, entries in (("Made from models", made), ("Fetched from the Hub", hub)):
            sizes = {path: _size(path) for path in entries}
            print(f"{title}: {sum(sizes.values()) / 1e9:.2f} GB")
            for path, size in sizes.items():
                days = (time.time() - path.stat().st_mtime) / 86400
                print(f"  {size / 1e6:10,.1f} MB  {days:4.0f} days old  {path}")
    freed = sum(_size(path) for path in gone)
    try:
        for path in gone:
            shutil.rmtree(path)
    except OSError as error:
        raise RequestError(f"{error.filename} cannot be deleted ({error.strerror}); check its rights.") from None
    if gone and not options.json:
        print(f"Deleted {freed / 1e9:.2f} GB.")
    return 0


def _entries(folder: Path) -> list[Path]:
    """The folders in it, the last changed first; links are nobody's."""
    try:
        folders = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
