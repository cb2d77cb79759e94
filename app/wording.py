"""Names and sentences as they can be shown: what came from the system may hold bytes that are no text. Stdlib only."""

from __future__ import annotations


def shown(name: str) -> str:
    """A file's name for people: what cannot be seen is written as an escape."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def encodable(sentence: str) -> str:
    """A sentence that any answer can carry: bytes that were no text are written as escapes."""
    return sentence.encode("utf-8", "backslashreplace").decode()
