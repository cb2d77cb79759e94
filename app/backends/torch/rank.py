"""One of the processes of tensor parallelism that rank 0 starts: `python -m app.backends.torch.rank OPTIONS`, the options of the pair
as JSON; its rank is in the environment. It follows until rank 0 ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from app.backends.torch import loading
from app.errors import PlaygroundError
from app.pairs.options import PairOptions

PATHS = ("target", "draft")


def read(text: str) -> PairOptions:
    """What `loading.written` wrote."""
    values: dict[str, Any] = json.loads(text)
    given: dict[str, Any] = {name: Path(value) if name in PATHS else value for name, value in values.items()}
    return PairOptions(**given)


def main(arguments: list[str]) -> int:
    try:
        loading.prepare(read(arguments[0]), 0)()
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
