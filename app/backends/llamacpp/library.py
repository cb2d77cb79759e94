"""llama.cpp's library, brought in where it is needed: what it says goes to the log, and its complaints into
sentences."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import re
from typing import Any

from app.errors import PairError

_LOG = logging.getLogger(__name__)
_WARNING = 3  # ggml_log_level: 1 debug, 2 information, 3 warning, 4 error, 5 more of the line before
_MOST = 8  # complaints kept
_DAMAGED = re.compile(r"tensor '(.+)' has invalid data")
_complaints: list[str] = []
_kept: list[Any] = []


@functools.cache
def library() -> Any:
    """The module llama_cpp, made quiet. Raises PairError where it is not installed."""
    try:
        module = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise PairError(
            f"llama.cpp is not installed ({str(error).splitlines()[0]}); start with ./launch.sh, which compiles it in "
            "about ten minutes, or pip install -r app/backends/requirements-llamacpp.txt."
        ) from None

    @module.llama_log_callback  # type: ignore[untyped-decorator]
    def said(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", "replace").strip()
        if line.strip("."):
            _LOG.log(logging.INFO if level == _WARNING else logging.DEBUG, "%s", line)
            if level > _WARNING:
                _complaints.append(line)
                del _complaints[:-_MOST]

    module.llama_log_set(said, ctypes.c_void_p(0))
    module.llama_backend_init()
    _kept.append(said)  # the library calls it as long as the process lives
    return module


def complaint(default: str) -> str:
    """The last error it logged, taken away."""
    line = (_complaints or [default])[-1].rstrip(".")
    _complaints.clear()
    return line


def damaged_tensor() -> str | None:
    """The tensor, by its name in the file, whose values it complained of, the complaints taken away then; None if it
    did of none."""
    name = next((match[1] for line in _complaints if (match := _DAMAGED.search(line))), None)
    if name is not None:
        _complaints.clear()
    return name
