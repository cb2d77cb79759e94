"""Compiled programs kept in a folder, and whether they are the ones for these settings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from app.backends.neuron.settings import Settings
from app.errors import PairError

SETTINGS_FILE = "settings.json"  # beside compiled artefacts: what they were compiled for
UNFINISHED_FILE = "unfinished"  # while they are being written


def _artifact_settings(library: Any, raw: dict[str, Any], settings: Settings) -> dict[str, Any]:
    shape = {key: value for key, value in raw.items() if isinstance(value, int | float | str | bool | dict | None)}
    return {
        "library": str(getattr(library, "__version__", "")),
        "dtype": settings.dtype,
        "tp_degree": settings.tp_degree,
        "n_positions": settings.n_positions,
        "prefill": settings.prefill,
        "windows": list(settings.windows),
        "compiler_flags": os.environ.get("NEURON_CC_FLAGS", ""),
        "config": shape,
    }


def check_artifacts(artifacts: Path | None) -> None:
    """Raises PairError for a folder that is not this module's to replace."""
    if artifacts is None or not artifacts.exists():
        return
    names = {path.name for path in artifacts.iterdir()} if artifacts.is_dir() else {"a file"}
    if not names or names & {SETTINGS_FILE, UNFINISHED_FILE}:
        return
    raise PairError(f"{artifacts} holds something else; choose another folder for --neuron-artifacts.")


def known_artifacts(library: Any, raw: dict[str, Any], settings: Settings, artifacts: Path | None) -> bool:
    """Whether the folder holds programs compiled for exactly this."""
    if artifacts is None or not (artifacts / SETTINGS_FILE).is_file():
        return False
    try:
        found = json.loads((artifacts / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == _artifact_settings(library, raw, settings))


def save_artifacts(library: Any, raw: dict[str, Any], settings: Settings, module: Any, artifacts: Path) -> None:
    """Keep the compiled programs; the settings come last, so that a cut-off folder is not taken for whole."""
    if artifacts.exists():
        shutil.rmtree(artifacts)
    artifacts.mkdir(parents=True)
    (artifacts / UNFINISHED_FILE).touch()
    module.save(str(artifacts))
    (artifacts / SETTINGS_FILE).write_text(
        json.dumps(_artifact_settings(library, raw, settings), indent=2), encoding="utf-8"
    )
    (artifacts / UNFINISHED_FILE).unlink()
