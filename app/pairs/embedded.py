"""The embedded pair: a target that set-up fetched, and the draft that this project distilled for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.errors import PairError
from app.places import ASSETS, COMMAND, models_dir

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_DRAFT_NAME = "distilled-2-layers-conditioned"
EMBEDDED_DRAFT = ASSETS / "draft"
EMBEDDED_PLAIN_DRAFT_NAME = "distilled-2-layers-plain"
EMBEDDED_PLAIN_DRAFT = ASSETS / "plain-draft"
"""For engines that do not give a target's states."""


def embedded_target() -> Path:
    """The fetched GGUF, checked against its checksum. Raises PairError."""
    path = models_dir() / EMBEDDED_FILE
    if not path.exists():
        raise PairError(f"The embedded target is not at {path}; run {COMMAND} setup to fetch it.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise PairError(f"{path} is damaged (its checksum is wrong); delete it and run {COMMAND} setup again.")
    return path
