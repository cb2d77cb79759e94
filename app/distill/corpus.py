"""Texts of the teacher on disk, and as training sequences without those that hold a held-out prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.distill import shards
from app.distill.teacher import Text


@dataclass(frozen=True, slots=True)
class Example:
    """One text. temperature: that of its last turn, which begins at token `answer`.

    scored [len(token_ids)]: the tokens the teacher drew; hidden float16 [scored.sum(), D]: its state before each.
    """

    key: int
    category: int
    temperature: float
    token_ids: NDArray[np.int32]
    scored: NDArray[np.bool_]
    hidden: NDArray[np.float16]
    answer: int

    @property
    def drawn(self) -> NDArray[np.int32]:
        """The tokens the teacher drew."""
        return self.token_ids[self.scored]


def append(folder: Path, texts: list[Text], categories: list[int]) -> None:
    """Writes texts as the next shard of a folder."""
    flat, offsets = shards.pack_rows([text.token_ids for text in texts])
    columns = {
        "keys": np.array([text.job.key for text in texts]),
        "categories": np.array(categories),
        "temperatures": np.array([text.job.turns[-1].temperature for text in texts]),
        "token_ids": flat,
        "offsets": offsets,
        "scored": np.concatenate([text.scored for text in texts]),
        "hidden": np.concatenate([text.hidden for text in texts]),
    }
    shards.append(folder, columns)


def keys(folder: Path) -> set[int]:
    """The keys of a folder's texts."""
    return {int(key) for column in shards.column(folder, "keys") for key in column}


def read(folders: Iterable[Path], refuse: Callable[[NDArray[np.int32]], bool] = lambda ids: False) -> list[Example]:
    """Every example of the folders but those whose ids `refuse` says hold a held-out prompt."""
    examples = []
    for folder in folders:
        for path in shards.paths(folder):
            a = shards.read(path)
            row = 0
            for i, (begin, end) in enumerate(pairwise(a["offsets"])):
                ids, scored = a["token_ids"][begin:end], a["scored"][begin:end]
                count = int(scored.sum())
                hidden = a["hidden"][row : row + count]
                row += count
                if not refuse(ids):
                    unscored = np.flatnonzero(~scored)
                    answer = int(unscored[-1]) + 1 if len(unscored) else 0
                    examples.append(
                        Example(
                            int(a["keys"][i]), int(a["categories"][i]), float(a["temperatures"][i]), ids, scored, hidden, answer
                        )
                    )  # fmt: skip
    return examples


def most_frequent(
    examples: Sequence[Example],
    count: int,
    output: NDArray[np.float32],
    always: Iterable[int] = (),
    sample: int = 20_000,
) -> NDArray[np.int32]:
    """The `count` likeliest ids, ascending; `always` are among them.

    Likely by the tokens drawn and, half of it, by the teacher's distributions at about `sample` positions: they know
    ids that a small corpus happens to lack. output: the target's output layer [V, D].
    """
    drawn = np.zeros(len(output))
    for e in examples:
        np.add.at(drawn, e.drawn, 1)
    total, mass = int(drawn.sum()), np.zeros(len(output))
    states = np.concatenate([e.hidden[:: min(max(1, total // sample), len(e.hidden))] for e in examples])
    for begin in range(0, len(states), 256):
        logits = states[begin : begin + 256].astype(np.float32) @ output.T
        probs = np.exp(logits - logits.max(1, keepdims=True))
        mass += (probs / probs.sum(1, keepdims=True)).sum(0)
    score = drawn / total + mass / mass.sum()
    score[list(always)] = np.inf
    order = np.argsort(-score, kind="stable")
    return np.sort(order[:count]).astype(np.int32)


def batches(examples: list[Example], tokens: int, seed: int, epoch: int) -> Iterator[list[Example]]:
    """One epoch in an order fixed by (seed, epoch): batches of up to `tokens` padded tokens, of similar length."""
    rng = np.random.default_rng([seed, 3, epoch])
    noise = rng.normal(0, 8, len(examples))
    order = np.argsort([len(e.token_ids) + n for e, n in zip(examples, noise, strict=True)])
    made, batch, longest = [], list[Example](), 0
    for index in order:
        e = examples[index]
        longest = max(longest, len(e.token_ids))
        if batch and longest * (len(batch) + 1) > tokens:
            made.append(batch)
            batch, longest = [], len(e.token_ids)
        batch.append(e)
    if batch:
        made.append(batch)
    yield from (made[i] for i in rng.permutation(len(made)))
