"""Tokens' bytes as text: a character may be split over several tokens, and traces hold strings. Stdlib only."""

from __future__ import annotations

from collections.abc import Iterable


def piece_text(piece: bytes) -> str:
    """A token's bytes as the string `TokenTexts` holds."""
    return piece.decode("utf-8", "surrogateescape")


def join_pieces(pieces: Iterable[str]) -> str:
    """The text of joined pieces: split characters are whole again, broken ones become U+FFFD."""
    return "".join(pieces).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
