"""A model's graph, its weights packed, kept on disk."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from collections.abc import Sequence as Ids
from pathlib import Path

import openvino as ov

from app.backends import huge_pages
from app.backends.checkpoints import int8
from app.backends.checkpoints.cache import filled, fingerprint
from app.backends.checkpoints.checkpoint import Checkpoint
from app.backends.openvino import llama_graph
from app.backends.openvino import weights as weight_kinds
from app.errors import PairError

_WIDENED = re.compile(
    r'(<layer id="\d+" name="[^"]*" type="Convert"[^>]*>\s*<data destination_type="f32" ?/>\s*)'
    r'(<input>\s*<port id="0" precision="(?:BF16|FP16)">)'
)
"""Where a graph's file widens weights in 16 bits."""
_CONSTANTS = re.compile(r'offset="(\d+)"[^>]*? size="(\d+)"')
"""Where a graph's file says its weights lie."""


def _keep_narrow(file: Path) -> None:
    """Mark that weights are widened as they are used: the plugin would widen them once, and hold them in 32 bits, and
    once more in its own layout. Python has no way to say so but in the graph's file."""
    marked = r'\1<rt_info><attribute name="decompression" version="0" /></rt_info>\2'
    file.write_text(_WIDENED.sub(marked, file.read_text(encoding="utf-8")), encoding="utf-8")


def place(dtype: str, states: bool, files: Ids[Path], cache_dir: Path) -> Path:
    """Where the graph made of these files is kept."""
    sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (llama_graph, weight_kinds, int8)]
    sources.append(_WIDENED.pattern)
    return cache_dir / f"graph-{fingerprint(files, ov.get_version(), *sources, dtype, f'states {states}')}"


def paged_graph(
    core: ov.Core, weights: Callable[[], Checkpoint], dtype: str, states: bool, files: Ids[Path], cache_dir: Path | None
) -> tuple[ov.Model, Path | None]:
    """The paged graph; the stateful one it comes from, weights quantised, is kept on disk, in the folder given with
    it."""
    if cache_dir is None:
        return llama_graph.paged(llama_graph.stateful(weights(), dtype, states)), None
    made: list[ov.Model] = []

    def write(directory: Path) -> None:
        made[:] = [llama_graph.stateful(weights(), dtype, states)]
        try:
            ov.save_model(made[0], directory / "graph.xml", compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(errno.EIO, str(error).splitlines()[0]) from None
        if dtype in ("bf16", "f16"):
            _keep_narrow(directory / "graph.xml")
        # A full disk may go unnoticed there.
        text = (directory / "graph.xml").read_text(encoding="utf-8", errors="replace")
        ends = [int(offset) + int(size) for offset, size in _CONSTANTS.findall(text)]
        if not text.rstrip().endswith("</net>") or (directory / "graph.bin").stat().st_size < max(ends, default=0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        folder = filled(place(dtype, states, files, cache_dir), write).resolve()
        made.clear()  # before it is read again: once is enough to hold
        huge_pages.trim()
        return llama_graph.paged(core.read_model(folder / "graph.xml")), folder
    except PairError:
        if not made:
            raise
        return llama_graph.paged(made[0]), None  # no room for it anywhere
