"""An answer as it comes, on a terminal or into a file: each token coloured, and formed, by where it came from."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from app.record.metrics import Metrics
from app.record.trace import Arm, Round

_RESET = "\x1b[0m"
STYLES: dict[str, str] = {
    "accepted": "\x1b[32m",  # green
    "corrected": "\x1b[33;4m",  # yellow, underlined
    "bonus": "\x1b[34;1m",  # blue, bold
    "target": "",
}
"""What the terminal is told before a token, by its provenance."""
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would move the cursor, change colours or turn the text around: a model's text does none of it."""


class Output(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


def is_coloured(output: Output, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour what is written there: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return output.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class Answer:
    """One arm's text, written as its rounds come."""

    def __init__(self, output: Output, arm: Arm, metrics: Metrics, coloured: bool) -> None:
        """metrics: of the same run, which have taken in every event that this is told of."""
        self._output, self._arm, self._metrics, self._coloured = output, arm, metrics, coloured
        self._terminal = output.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, round_: Round) -> None:
        """Write the text that the round adds, if it is the arm's."""
        if round_.arm != self._arm:
            return
        for id_, provenance in _tokens(round_):
            if id_ not in self._metrics.special:
                piece = self._metrics.pieces.get(id_, "").encode("utf-8", "surrogateescape")
                self._write(self._decoder.decode(piece), provenance)
        self._output.flush()

    def close(self) -> None:
        """The end of the text, and of its line."""
        self._output.write(self._decoder.decode(b"", final=True) + "\n\n")
        self._output.flush()

    def _write(self, text: str, provenance: str) -> None:
        if self._terminal:
            text = tamed(text)
        self._output.write(styled(text, provenance) if self._coloured else text)


def tamed(text: str) -> str:
    """A model's text as a terminal may have it: what would steer the terminal shows as its code."""
    return _CONTROLS.sub(lambda match: f"<{ord(match[0]):02X}>", text)


def styled(text: str, provenance: str) -> str:
    """The text as a terminal shows it, spaces and line ends before it left as they are."""
    bare = text.lstrip()
    style = STYLES[provenance]
    return text if not bare or not style else f"{text[: len(text) - len(bare)]}{style}{bare}{_RESET}"


def legend(counts: Mapping[str, int], coloured: bool) -> str:
    """How many tokens came from where, each word as its tokens look."""
    parts = [
        f"{counts.get(name, 0)} {styled(name, name) if coloured else name}" for name in STYLES if counts.get(name, 0)
    ]
    return ", ".join(parts)


def _tokens(round_: Round) -> Iterator[tuple[int, str]]:
    """What the round emitted, in order."""
    for token in round_.accepted:
        yield token.id, "accepted"
    if round_.final is not None:
        yield round_.final.id, round_.final.provenance
