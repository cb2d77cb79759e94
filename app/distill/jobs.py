"""What the target is to write: hand-written beginnings as rows of ids, with the temperatures and lengths of both
turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.distill.openers import FILLS, OPENERS, PASSAGES, WEIGHTS
from app.distill.target import Target
from app.pairs.tokenizer import TextTokenizer

OPENER_TOKENS = 64
"""Room for an opener's own words, beside the passage put into it."""
CATEGORIES = (*OPENERS, *(f"{name} of a passage" for name in PASSAGES))
NO_PROSE = ("translation", "maths", "code")
TEMPERATURES, SHARES = (0.0, 0.7, 1.0), (0.50, 0.25, 0.25)
INSTRUCTION_TEMPERATURES = (0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The longest instruction, passage, and answer, in tokens."""

    instruction: int = 64
    passage: int = 170
    answer: int = 192

    def longest(self, target: Target) -> int:
        """The context a dialogue may need, in tokens."""
        own = OPENER_TOKENS + self.passage + self.instruction + self.answer
        return len(target.opening) + own + len(target.closing)


def opener(key: int, seed: int, passages: Sequence[str] = ()) -> tuple[int, str]:
    """(index of the category, text) that instruction `key` begins with."""
    rng = np.random.default_rng([seed, 1, key])
    category = int(rng.choice(len(CATEGORIES), p=WEIGHTS))
    choices = [*OPENERS.values(), *PASSAGES.values()][category]
    text = choices[int(rng.integers(len(choices)))]
    for place, fills in FILLS.items():
        while place in text:
            text = text.replace(place, fills[int(rng.integers(len(fills)))], 1)
    if "{passage}" in text and passages:
        return category, text.replace("{passage}", passages[int(rng.integers(len(passages)))])
    before, marker, _ = text.partition("{passage}")
    return category, before if before or not marker else "Here is a text.\n\n"


@dataclass(frozen=True, slots=True)
class Jobs:
    """One row a dialogue. ids int32 [n, width], padded: what stands between the template's opening and what the target
    writes; lengths [n]; asked, answer [n]: most tokens of the instruction (0: the ids hold it whole, closing and all)
    and of its answer; asked_heat, answer_heat float32 [n]: their temperatures; categories [n]: places in
    `CATEGORIES`."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    asked: NDArray[np.int32]
    answer: NDArray[np.int32]
    asked_heat: NDArray[np.float32]
    answer_heat: NDArray[np.float32]
    categories: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)


def width(sizes: Sizes, prompts: Iterable[Sequence[int]]) -> int:
    """The longest row of ids, in tokens."""
    return max(OPENER_TOKENS + sizes.passage, *map(len, prompts))


def rows(
    texts: Sequence[Sequence[int]],
    width: int,
    asked: Sequence[int],
    answer: int,
    heats: Sequence[tuple[float, float]],
    categories: Sequence[int],
) -> Jobs:
    """Jobs of these ids, those longer than `width` left out."""
    fitting = [place for place, text in enumerate(texts) if 0 < len(text) <= width]
    ids = np.zeros((len(fitting), width), np.int32)
    for row, place in enumerate(fitting):
        ids[row, : len(texts[place])] = texts[place]
    heat = np.array([heats[place] for place in fitting], np.float32).reshape(-1, 2)
    return Jobs(
        ids,
        np.array([len(texts[place]) for place in fitting], np.int32),
        np.array([asked[place] for place in fitting], np.int32),
        np.full(len(fitting), answer, np.int32),
        heat[:, 0].copy(),
        heat[:, 1].copy(),
        np.array([categories[place] for place in fitting], np.int32),
    )


def held_out(target: Target, prompts: Sequence[tuple[str, str]], sizes: Sizes, width: int) -> Jobs:
    """The held-out prompts to be answered: job 2 n is prompt n at T = 0, job 2 n + 1 at T = 1."""
    texts = [[*target.tokenizer.encode(prompt), *target.closing] for _, prompt in prompts for _ in (0, 1)]
    heats = [(0.0, float(place % 2)) for place in range(len(texts))]
    return rows(texts, width, [0] * len(texts), sizes.answer, heats, [-1] * len(texts))


def begun(
    tokenizer: TextTokenizer, keys: Iterable[int], seed: int, passages: Sequence[str], sizes: Sizes, width: int
) -> Jobs:
    """Instructions that the target is to finish, then answer. passages: see `opener`."""
    texts, asked, heats, categories = [], [], [], []
    for key in keys:
        category, text = opener(key, seed, passages)
        categories.append(category)
        writes = category >= len(OPENERS) and not passages
        texts.append(tokenizer.encode(text))
        asked.append(sizes.passage if writes else sizes.instruction)
        temperature = float(np.random.default_rng([seed, 2, key]).choice(TEMPERATURES, p=SHARES))
        heats.append((INSTRUCTION_TEMPERATURES[key // 2 % 2], temperature))
    return rows(texts, width, asked, sizes.answer, heats, categories)
