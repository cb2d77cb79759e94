"""One of the processes of tensor parallelism that rank 0 starts: `python -m app.backends.torch.rank OPTIONS`, the
options of the pair as JSON; its rank is in the environment. It follows until rank 0 ends."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from app.backends.torch import loading
from app.errors import exit_code
from app.pairs.options import PairOptions

PATHS = ("target", "draft")
LOOK_SECONDS = 1.0


def read(text: str) -> PairOptions:
    """What `loading.written` wrote."""
    values: dict[str, Any] = json.loads(text)
    given: dict[str, Any] = {name: Path(value) if name in PATHS else value for name, value in values.items()}
    return PairOptions(**given)


def main(arguments: list[str]) -> int:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return exit_code(lambda: loading.prepare(read(arguments[0]), 0)())


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: while both look for each other, nothing else would
    tell."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(2)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
