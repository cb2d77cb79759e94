"""Tokens' bytes as text: a character may be split over several tokens, and traces hold strings. Stdlib only."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator


def piece_text(piece: bytes) -> str:
    """A token's bytes as the string `TokenTexts` holds."""
    return piece.decode("utf-8", "surrogateescape")


def join_pieces(pieces: Iterable[str]) -> str:
    """The text of joined pieces: split characters are whole again, broken ones become U+FFFD."""
    return "".join(pieces).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def whole_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """What each piece adds to the text: a split character comes with the piece that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return (decoder.decode(piece.encode("utf-8", "surrogateescape")) for piece in pieces)
