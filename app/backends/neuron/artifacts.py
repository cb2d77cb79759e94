"""Compiled programs kept in a folder, and whether they are the ones for these settings."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from app.backends.checkpoints.config import read_json
from app.backends.neuron.settings import Settings
from app.errors import PairError

SETTINGS_FILE = "settings.json"  # beside compiled artefacts: what they were compiled for
UNFINISHED_FILE = "unfinished"  # while they are being written


def check(artifacts: Path | None) -> None:
    """Raises PairError for a folder that is not this module's to replace."""
    if artifacts is None or not artifacts.exists():
        return
    names = {path.name for path in artifacts.iterdir()} if artifacts.is_dir() else {"a file"}
    if not names or names & {SETTINGS_FILE, UNFINISHED_FILE}:
        return
    raise PairError(f"{artifacts} holds something else; choose another folder for --neuron-artifacts.")


def known(artifacts: Path | None, checkpoint: Path, settings: Settings) -> bool:
    """Whether the folder holds programs compiled for exactly this."""
    if artifacts is None or not (artifacts / SETTINGS_FILE).is_file():
        return False
    try:
        written = json.loads((artifacts / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written == _described(checkpoint, settings))


@contextmanager
def writing(artifacts: Path, checkpoint: Path, settings: Settings) -> Iterator[None]:
    """Empty the folder for programs that are written meanwhile; the settings come last, so that a cut-off folder is not
    taken for whole."""
    if artifacts.exists():
        shutil.rmtree(artifacts)
    artifacts.mkdir(parents=True)
    (artifacts / UNFINISHED_FILE).touch()
    yield
    (artifacts / SETTINGS_FILE).write_text(json.dumps(_described(checkpoint, settings), indent=2), encoding="utf-8")
    (artifacts / UNFINISHED_FILE).unlink()


def _described(checkpoint: Path, settings: Settings) -> dict[str, Any]:
    raw = read_json(checkpoint / "config.json")
    shape = {key: value for key, value in raw.items() if isinstance(value, int | float | str | bool | dict | None)}
    described = {
        **asdict(settings),
        "library_version": _version(settings.library),
        "compiler_flags": os.environ.get("NEURON_CC_FLAGS", ""),
        "config": shape,
    }
    return dict(json.loads(json.dumps(described)))  # as it is read back: a tuple is a list there


def _version(library: str) -> str:
    package = {"nxd-inference": "neuronx-distributed-inference"}.get(library, library)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
