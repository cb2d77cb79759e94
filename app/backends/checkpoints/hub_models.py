"""Models of the Hub on their way to any backend: configurations, checks, then weights."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

from app.backends.checkpoints.config import LlamaConfig, read_config
from app.errors import PairError
from app.pairs import hub, memory
from app.pairs.hub_names import Reference, parse
from app.pairs.options import PairOptions
from app.pairs.tokenizer import TextTokenizer

_BYTES = {"int8": 1.03, "bf16": 2, "f16": 2, "f32": 4}


def reference(path: Path | None, revision: str | None) -> Reference | None:
    """What a target or draft names on the Hub; None for what lies on this disk. Raises PairError."""
    if path is None or path.exists():
        return None
    named = parse(str(path), revision)
    if named is None:
        return None
    if named.file is None and named.repository.endswith(".gguf"):
        return None  # a path that is mistyped, not a repository
    return named


def local(
    options: PairOptions, progress: hub.Progress | None = None, cancel: threading.Event | None = None
) -> PairOptions:
    """The options with paths on this disk in place of ids and links: what they name is fetched, once.

    First the configurations of both models, which are checked, and their memory where they run on the processor; then
    the weights. progress: the terminal's where None. Raises PairError, and `FetchStopped` once `cancel` is set.
    """
    named = {
        "target": reference(options.target, options.revision),
        "draft": reference(options.draft, options.draft_revision),
    }
    snapshots = {key: hub.snapshot(each) for key, each in named.items() if each is not None}
    if not snapshots:
        return options
    progress = progress or hub.Shown()
    needs = []
    for snapshot in snapshots.values():
        snapshot.fetch(weights=False, progress=progress, cancel=cancel)
        if not snapshot.is_gguf:
            config = _checked(snapshot)
            size = _BYTES.get(options.dtype or "int8", 4)
            needs.append(memory.Need(snapshot.reference.name, int(config.num_parameters * size), 0))
    if options.backend in ("openvino", "auto") and needs:
        memory.check(needs, memory.free_memory(), 0)
    for snapshot in snapshots.values():
        snapshot.fetch(weights=True, progress=progress, cancel=cancel)
    paths: dict[str, Any] = {key: snapshot.path for key, snapshot in snapshots.items()}
    return dataclasses.replace(options, **paths, revision=None, draft_revision=None)


def _checked(snapshot: hub.Snapshot) -> LlamaConfig:
    """Its configuration, judged before a weight has come. Raises PairError."""
    try:
        config = read_config(snapshot.directory)
        if (snapshot.directory / "tokenizer.json").exists():
            TextTokenizer(snapshot.directory, config.stop_ids).check()
    except PairError as error:
        said = str(error).replace(str(snapshot.directory), snapshot.reference.repository)
        raise PairError(said) from None
    return config
