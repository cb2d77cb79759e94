"""Training data the target makes itself: it writes an instruction and answers it, in one go.

Shown the user's turn begun, the target writes the rest of it; then the chat template closes the turn and it answers.
So nothing is scored twice, and every token it drew, in either turn, is one to learn from. Texts are appended as
shards to a folder, and what its shards hold is skipped, so this may be stopped at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.distill import corpus
from app.distill.corpus import Example
from app.distill.openers import FILLS, OPENERS, PASSAGES, WEIGHTS
from app.distill.progress import Progress
from app.distill.target import Target
from app.distill.teacher import Job, Text, Turn, generate

if TYPE_CHECKING:
    from app.backends.openvino.teacher import TeacherGraph

CATEGORIES = (*OPENERS, *(f"{name} of a passage" for name in PASSAGES))
NO_PROSE = ("translation", "maths", "code")
TEMPERATURES, SHARES = (0.0, 0.7, 1.0), (0.50, 0.25, 0.25)
INSTRUCTION_TEMPERATURES = (0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The longest instruction, passage, and answer, in tokens; jobs a shard."""

    instruction: int = 64
    passage: int = 170
    answer: int = 192
    shard: int = 128


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


def passages(examples: Iterable[Example], target: Target, longest: int) -> list[str]:
    """Answers that may serve as passages: prose ended by the target itself, not too hot, of some length."""
    found = []
    for example in examples:
        answer = example.token_ids[example.answer :]
        ended = len(answer) and int(answer[-1]) in target.tokenizer.stop_ids
        prose = CATEGORIES[example.category] not in NO_PROSE
        if prose and ended and longest // 3 <= len(answer) <= longest and example.temperature < 1:
            found.append(target.text(answer[:-1]).strip())
    return found


def dialogues(
    graph: TeacherGraph,
    target: Target,
    folder: Path,
    keys: Iterable[int],
    texts: Sequence[str],
    seed: int,
    sizes: Sizes,
) -> None:
    """Lets the target write and answer the instructions `keys` that `folder` lacks.

    texts: passages to be put into instructions that ask for one.
    """
    done = corpus.keys(folder)
    todo = [key for key in keys if key not in done]
    categories: dict[int, int] = {}

    def jobs() -> Iterator[Job]:
        for key in todo:
            categories[key], text = opener(key, seed, texts)
            writes = categories[key] >= len(OPENERS) and not texts
            temperature = float(np.random.default_rng([seed, 2, key]).choice(TEMPERATURES, p=SHARES))
            turns = (
                Turn(INSTRUCTION_TEMPERATURES[key // 2 % 2], sizes.passage if writes else sizes.instruction),
                Turn(temperature, sizes.answer),
            )
            yield Job(key, (*target.opening, *target.tokenizer.encode(text)), turns)

    stream = generate(graph, jobs(), seed, target.tokenizer.stop_ids, target.opening, target.closing)
    _collect(stream, categories, folder, len(todo), "dialogues", sizes.shard)


def held_out_answers(
    graph: TeacherGraph, target: Target, folder: Path, prompts: Sequence[tuple[str, str]], seed: int, sizes: Sizes
) -> None:
    """Answers to the held-out (category, prompt) pairs: key 2 n is prompt n at T = 0, key 2 n + 1 at T = 1."""
    done = corpus.keys(folder)
    todo = [key for key in range(2 * len(prompts)) if key not in done]
    names = list(dict.fromkeys(category for category, _ in prompts))
    categories = {key: names.index(prompts[key // 2][0]) for key in todo}

    def jobs() -> Iterator[Job]:
        for key in todo:
            asked = target.tokenizer.encode(prompts[key // 2][1])
            yield Job(key, (*target.opening, *asked, *target.closing), (Turn(float(key % 2), sizes.answer),))

    stream = generate(graph, jobs(), seed + 1, target.tokenizer.stop_ids, target.opening)
    _collect(stream, categories, folder, len(todo), "held-out answers", sizes.shard)


def _collect(
    finished: Iterator[Text], categories: dict[int, int], folder: Path, total: int, label: str, size: int
) -> None:
    progress, tokens = Progress(label, total), 0
    batch: list[Text] = []

    def flush() -> None:
        corpus.append(folder, batch, [categories[text.job.key] for text in batch])
        batch.clear()

    for text in finished:
        batch.append(text)
        tokens += len(text.hidden)
        progress.step(f"{tokens} tokens")
        if len(batch) == size:
            flush()
    if batch:
        flush()
    progress.close(f"{tokens} tokens")
