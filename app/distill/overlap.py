"""Keeps held-out prompts out of training data: exact and near duplicates, found by shared word n-grams."""

from __future__ import annotations

import re
from collections.abc import Iterable

N = 5  # words a gram
SHARE = 0.3  # of a held-out prompt's grams (or of the text's own, if it has fewer) ...
LEAST = 3  # ... and at least so many: a common phrase is no duplicate


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def grams(text: str) -> set[tuple[str, ...]]:
    """The word n-grams of a text; a text shorter than n words is one gram."""
    own = words(text)
    return {tuple(own[i : i + N]) for i in range(max(1, len(own) - N + 1))} if own else set()


class Overlap:
    """Whether a text is, or nearly is, one of the held-out prompts."""

    def __init__(self, held_out: Iterable[str]):
        self.held_out = [(" ".join(words(text)), grams(text)) for text in held_out]
        self.any_gram = set().union(*(g for _, g in self.held_out))

    def touches(self, text: str) -> bool:
        """True if the text holds a held-out prompt or is held in one, or shares SHARE of the smaller one's grams."""
        plain, own = " ".join(words(text)), grams(text)
        if not plain:
            return False
        for prompt, theirs in self.held_out:
            if f" {plain} " in f" {prompt} " or f" {prompt} " in f" {plain} ":
                return True
            if own & self.any_gram and len(own & theirs) >= max(LEAST, SHARE * min(len(own), len(theirs))):
                return True
        return False
